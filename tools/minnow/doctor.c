/* SPDX-License-Identifier: MIT */
/*
 * minnow doctor: prints what mnw_examine() finds. Decides nothing itself and changes nothing.
 */
#include "command.h"

#include <jansson.h>
#include <minnow/minnow.h>
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_line(void *context, const struct mnw_finding *finding) {
    (void)context;
    printf("%s  %-26s  %s%s\n", finding->ok ? "ok" : "--", finding->name, finding->found,
           !finding->ok && finding->required ? " [required]" : "");
    if (finding->fix)
        printf("    %-26s  fix: %s\n", "", finding->fix);
}

static void add_object(void *context, const struct mnw_finding *finding) {
    json_t *object = json_pack("{s:s, s:b, s:b, s:s, s:s?}", "name", finding->name, "ok", finding->ok, "required",
                               finding->required, "found", finding->found, "fix", finding->fix);
    json_array_append_new(context, object);
}

static int print_json(void) {
    json_t *findings = json_array();
    int missing = mnw_examine(add_object, findings);
    if (missing < 0) {
        json_decref(findings);
        return missing;
    }
    json_t *object = json_pack("{s:s, s:b, s:i, s:o}", "version", mnw_version(), "ok", missing == 0, "required_missing",
                               missing, "findings", findings);
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    puts(text ? text : "{}");
    free(text);
    json_decref(object);
    return missing;
}

int command_doctor(int argc, const char **argv) {
    int json = 0;
    const struct poptOption table[] = {{"json", 0, POPT_ARG_NONE, &json, 0, "print one JSON object", NULL},
                                       POPT_AUTOHELP POPT_TABLEEND};
    poptContext context = poptGetContext("minnow doctor", argc, argv, table, 0);
    int parsed = poptGetNextOpt(context), code = EXIT_FINE;
    if (parsed < -1)
        code = usage_error("doctor: %s: %s (minnow doctor --help)", poptBadOption(context, POPT_BADOPTION_NOALIAS),
                           poptStrerror(parsed));
    else if (poptPeekArg(context))
        code = usage_error("doctor: takes no arguments; there is '%s'", poptPeekArg(context));
    poptFreeContext(context);
    if (code)
        return code;

    int missing = json ? print_json() : mnw_examine(print_line, NULL);
    if (missing < 0) {
        fprintf(stderr, "minnow: doctor: %s\n", mnw_error());
        return EXIT_WRONG;
    }
    if (!json && missing)
        printf("%d required %s missing: no pool can be opened here\n", missing,
               missing == 1 ? "thing is" : "things are");
    return missing ? EXIT_WRONG : EXIT_FINE;
}
