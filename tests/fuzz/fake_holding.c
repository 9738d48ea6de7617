/* SPDX-License-Identifier: MIT */
/* A holder that has nothing, takes what it is given, and fails when the input says so. */
#include "fuzz/fake_minnow.h"

#include "base/error.h"
#include "daemon/holding.h"

#include <errno.h>
#include <fcntl.h>

int mnw__holding_store(struct mnw__holding *holding, const char *name, int fd, bool certain) {
    (void)holding;
    (void)certain;
    demand(name[0] && fcntl(fd, F_GETFD) >= 0, "a closed descriptor goes to the holder");
    return fake_maybe(-ETIMEDOUT, "storing a descriptor");
}
bool mnw__holding_keeps(const struct mnw__holding *holding) {
    (void)holding;
    return !fake.holder_lost;
}
void mnw__holding_remove(const struct mnw__holding *holding, const char *name) {
    (void)holding;
    (void)name;
}
int mnw__holding_take(struct mnw__holding *holding, const char *name) {
    (void)holding;
    (void)name;
    return -1;
}
