# SPDX-License-Identifier: MIT
"""A strict reader of Prometheus' text format, version 0.0.4: what it does not expect, it refuses."""
import math
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|\Z)')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)\Z")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")


class Wrong(Exception):
    pass


def demand(condition, what):
    if not condition:
        raise Wrong(what)


def key(labels):
    return tuple(sorted(labels.items()))


class Family:
    def __init__(self, name, kind):
        self.name, self.kind, self.samples = name, kind, {}

    def value(self, name, labels):
        return self.samples[(name, key(labels))]

    def buckets(self, labels):
        """Pairs of bound and count, in the order of the text."""
        name = self.name + "_bucket"
        found = []
        for (sample, have), value in self.samples.items():
            have = dict(have)
            if sample == name and {k: v for k, v in have.items() if k != "le"} == labels:
                found.append((math.inf if have["le"] == "+Inf" else float(have["le"]), value))
        return found

    def check(self):
        if self.kind == "counter":
            demand(self.name.endswith("_total"), f"{self.name}: a counter without _total")
            demand(all(value >= 0 for value in self.samples.values()), f"{self.name}: a counter below 0")
        if self.kind != "histogram":
            return
        groups = {key({k: v for k, v in have if k != "le"}) for _, have in self.samples}
        for group in groups:
            buckets = self.buckets(dict(group))
            demand(buckets and buckets[-1][0] == math.inf, f"{self.name}: no +Inf")
            demand(all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(buckets, buckets[1:])),
                   f"{self.name}: buckets are not cumulative, or out of order")
            demand(self.samples.get((self.name + "_count", group)) == buckets[-1][1], f"{self.name}: count is not +Inf")
            demand((self.name + "_sum", group) in self.samples, f"{self.name}: no sum")

    def owns(self, name):
        if self.kind == "histogram":
            return name in (self.name + "_bucket", self.name + "_sum", self.name + "_count")
        return name == self.name


def read_labels(text):
    labels = {}
    while text:
        found = LABEL.match(text)
        demand(found, f"labels: {text!r}")
        name, value, _ = found.groups()
        demand(name not in labels, f"label {name} twice")
        labels[name] = re.sub(r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), value)
        text = text[found.end():]
    return labels


def read_sample(line, family):
    found = SAMPLE.match(line)
    demand(found and family, f"no sample, or before any TYPE: {line!r}")
    name, labels, number = found.groups()
    demand(family.owns(name), f"{name} in the family of {family.name}")
    demand(NUMBER.match(number), f"number {number!r}")
    where = (name, key(read_labels(labels or "")))
    demand(where not in family.samples, f"{where} twice")
    family.samples[where] = int(number) if number.isdigit() else float(number)


def parse(text):
    """Families by name. Raises Wrong."""
    demand(text.endswith("\n"), "the last line does not end")
    families, helped, family = {}, None, None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            demand(len(line.split(" ", 3)) == 4, f"no help: {line!r}")
            helped, family = line.split(" ", 3)[2], None
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            demand(NAME.match(name) and name == helped and name not in families, f"TYPE of {name}")
            demand(kind in ("counter", "gauge", "histogram"), f"type {kind}")
            family = families[name] = Family(name, kind)
        else:
            read_sample(line, family)
    for family in families.values():
        family.check()
    return families
