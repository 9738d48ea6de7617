/* SPDX-License-Identifier: MIT */
/* minnow serve: puts the configuration together and becomes what it is to be. */
#include "daemon/serve.h"

#include "base/error.h"
#include "daemon/config.h"
#include "daemon/daemon.h"

#include <stdlib.h>

static int gather(struct mnw__config *config, const struct mnw__serve_options *options) {
    if (options->has_read_around)
        config->read_around_bytes = options->read_around_bytes;
    int error = options->config ? mnw__config_read(config, options->config) : 0;
    if (!error && options->budget_bytes)
        error = mnw__config_default_pool(config, options->backing, options->budget_bytes);
    for (const char *const *image = options->images; image && *image && !error; image++)
        error = mnw__config_add_image(config, *image);
    if (!error && options->socket)
        error = mnw__config_set_socket(config, options->socket);
    if (options->no_sandbox)
        config->sandbox = false;
    return error ? error : mnw__config_finish(config);
}

int mnw__serve(const struct mnw__serve_options *options) {
    struct mnw__config *config = mnw__config_new();
    if (!config || gather(config, options)) {
        mnw__daemon_log("%s", mnw__fail_message());
        mnw__config_free(config);
        return MNW__SERVE_REFUSED;
    }
    int status = MNW__SERVE_FINE;
    /* Whoever has told us where to send notifications keeps descriptors: systemd, or a holder of our own. */
    if (!options->check)
        status = options->alone || getenv("NOTIFY_SOCKET") ? mnw__worker_run(config)
                                                           : mnw__holder_run(config, options->argv);
    mnw__config_free(config);
    return status;
}
