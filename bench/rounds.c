/* SPDX-License-Identifier: MIT */
/* Arms that take turns: see harness.h. Whatever else the machine does in a round falls on every arm of it. */
#include "harness.h"
#include "interrupt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct arm_state {
    struct samples values, latencies;
    uint64_t sum;
    char why[160];
    bool broken;
};

static void take_turn(struct bench *bench, const struct bench_arm *arm, struct arm_state *state, unsigned round) {
    struct bench_turn turn = {
        .bench = bench,
        .round = round,
        .seed = (bench->seed + round) * 0x9e3779b97f4a7c15u | 1,
        .latencies = &state->latencies,
    };
    if (state->broken)
        return;
    double value = arm->turn(arm->context, &turn);
    if (!isfinite(value)) {
        state->broken = true;
        snprintf(state->why, sizeof(state->why), "%s", turn.why[0] ? turn.why : "gave no number");
        return;
    }
    if (round) {
        samples_add(&state->values, value);
        state->sum += turn.sum;
    } else {
        state->latencies.count = 0;
    }
}

static int find_arm(const struct bench_arm *arms, unsigned count, const char *name) {
    for (unsigned i = 0; name && i < count; i++)
        if (!strcmp(arms[i].name, name))
            return (int)i;
    return -1;
}

static void hold_against(struct bench_against *against, const struct bench_arm *arm, unsigned which,
                         const struct arm_state *own, const struct bench_arm *other, const struct arm_state *others,
                         double *ratios) {
    for (size_t i = 0; i < own->values.count; i++)
        ratios[i] = own->values.values[i] / others->values.values[i];
    *against = (struct bench_against){
        .name = other->name,
        .baseline = summarize(others->values.values, others->values.count).median,
        .ratios = ratios,
        .target = arm->target[which],
        .limit = arm->limit[which],
    };
}

static void report_arm(struct bench *bench, const struct bench_arm *arms, unsigned count, struct arm_state *states,
                       unsigned which) {
    static double ratios[2][BENCH_REPEAT_MAX];
    const struct bench_arm *arm = &arms[which];
    struct arm_state *state = &states[which];
    struct bench_result result = {
        .name = arm->name,
        .unit = arm->unit,
        .samples = state->values.values,
        .count = (unsigned)state->values.count,
        .by = arm->by,
        .at = arm->at,
        .series = arm->series,
        .latencies = &state->latencies,
        .sane_low = arm->sane_high > 0 ? arm->sane_low
                    : arm->against[0]  ? 1e-4
                                       : 1e-3,
        .sane_high = arm->sane_high > 0 ? arm->sane_high
                     : arm->against[0]  ? 1e4
                                        : 1e15,
    };
    for (unsigned i = 0; i < 2; i++) {
        int other = find_arm(arms, count, arm->against[i]);
        if (arm->against[i] && (other < 0 || states[other].broken)) {
            bench_break(bench, arm->name, "nothing to hold it against: %s was not measured", arm->against[i]);
            return;
        }
        if (other >= 0)
            hold_against(&result.against[i], arm, i, state, &arms[other], &states[other], ratios[i]);
    }
    if (arm->detail)
        result.detail = arm->detail(arm->context, bench);
    bench_report(bench, &result);
    bench_checksum(bench, arm->name, state->sum);
}

/* The arms that do the same work have read the same bytes, or one of them has not done it. */
static void check_sums(const struct bench_arm *arms, unsigned count, struct arm_state *states) {
    int first = -1;
    for (unsigned i = 0; i < count; i++) {
        if (!arms[i].same_work || states[i].broken)
            continue;
        if (first < 0)
            first = (int)i;
        if (states[i].sum == states[first].sum)
            continue;
        states[i].broken = true;
        snprintf(states[i].why, sizeof(states[i].why), "read other bytes than %s", arms[first].name);
    }
}

void bench_take_turns(struct bench *bench, const struct bench_arm *arms, unsigned count) {
    struct arm_state states[BENCH_ARMS_MAX] = {0};
    for (unsigned round = 0; round <= bench->repeat; round++)
        for (unsigned i = 0; i < count && !interrupted(); i++)
            take_turn(bench, &arms[(i + round) % count], &states[(i + round) % count], round);
    check_sums(arms, count, states);
    for (unsigned i = 0; i < count && !interrupted(); i++) {
        if (states[i].broken)
            bench_break(bench, arms[i].name, "%s", states[i].why);
        else if (!arms[i].hidden)
            report_arm(bench, arms, count, states, i);
    }
    for (unsigned i = 0; i < count; i++) {
        samples_free(&states[i].values);
        samples_free(&states[i].latencies);
    }
}
