/* SPDX-License-Identifier: MIT */
/* minnow serve: puts the configuration together and becomes what it is to be. */
#include "daemon/serve.h"

#include "base/error.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/holding.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_NONE = -1, SOCKET_BYTES = 108 };

/* `kept`: the text that the worker before us was started with, in place of the file's. */
static int gather(struct mnw__config *config, const struct mnw__serve_options *options, int kept) {
    int error = 0;
    if (options->has_read_around)
        config->read_around_bytes = options->read_around_bytes;
    if (options->config)
        error = kept >= 0 ? mnw__config_read_open(config, kept, options->config)
                          : mnw__config_read(config, options->config);
    if (!error && options->budget_bytes)
        error = mnw__config_default_pool(config, options->backing, options->budget_bytes);
    for (const char *const *image = options->images; image && *image && !error; image++) {
        error = mnw__config_add_image(config, *image);
        if (error && error != -ENOMEM && config->takes_over && config->pool_count) {
            mnw__daemon_log("%s; the others are served", mnw__fail_message());
            error = 0;
        }
    }
    if (!error && options->socket)
        error = mnw__config_set_socket(config, options->socket);
    if (options->no_sandbox)
        config->sandbox = false;
    return error ? error : mnw__config_finish(config);
}

static struct mnw__config *make(const struct mnw__serve_options *options, int kept, bool takes_over) {
    struct mnw__config *config = mnw__config_new();
    if (!config)
        return NULL;
    config->takes_over = takes_over;
    if (!gather(config, options, kept))
        return config;
    mnw__config_free(config);
    return NULL;
}

/* Whoever has told us where to send notifications keeps descriptors: systemd, or a holder of our own. */
static int work(const struct mnw__serve_options *options) {
    bool takes_over = mnw__holding_passed("state") >= 0;
    int kept = takes_over && options->config ? mnw__holding_passed(MNW__HOLDING_CONFIG) : KEPT_NONE;
    struct mnw__config *config = make(options, KEPT_NONE, takes_over || getenv(MNW__HOLDING_STANDBY));
    if (!config)
        mnw__daemon_log("%s", mnw__fail_message());
    struct mnw__config *last = kept >= 0 ? make(options, kept, true) : NULL;
    if (!config && last)
        mnw__daemon_log("taking over with the configuration as the last worker read it: mend %s", options->config);
    int status = config || last ? mnw__worker_run(config ? config : last, config ? last : NULL) : MNW__SERVE_REFUSED;
    mnw__config_free(config);
    mnw__config_free(last);
    return status;
}

/* What a start would refuse: the length of the socket's path, the holder's with it, and pools. */
static int check(const struct mnw__config *config) {
    int error = 0;
    if (strlen(config->socket) + sizeof(".holder") > SOCKET_BYTES)
        error = mnw__fail(-ENAMETOOLONG, "the socket's path %s is too long: it may have %zu bytes", config->socket,
                          SOCKET_BYTES - sizeof(".holder"));
    for (unsigned i = 0; i < config->pool_count && !error; i++) {
        struct mnw_pool *pool;
        error = mnw_pool_open(&pool, &config->pools[i].options);
        if (error)
            mnw__fail(error, "pool '%s': %s", config->pools[i].name, strdupa(mnw_error()));
        else
            mnw_pool_close(pool);
    }
    if (error)
        mnw__daemon_log("%s", mnw__fail_message());
    return error ? MNW__SERVE_REFUSED : MNW__SERVE_FINE;
}

static int hold(const struct mnw__serve_options *options) {
    struct mnw__config *config = make(options, KEPT_NONE, false);
    if (!config) {
        mnw__daemon_log("%s", mnw__fail_message());
        return MNW__SERVE_REFUSED;
    }
    int status = options->check ? check(config) : mnw__holder_run(config, options->argv);
    mnw__config_free(config);
    return status;
}

int mnw__serve(const struct mnw__serve_options *options) {
    bool works = !options->check && (options->alone || getenv("NOTIFY_SOCKET"));
    return works ? work(options) : hold(options);
}
