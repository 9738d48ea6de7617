/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: everything that a daemon can say, to the client library as it is, over a system that is a fake.
 *
 * An input is a program: calls of the library, and what the daemon says while they wait. Whatever comes: every call
 * ends, with an errno and a message where it fails; nothing is accessible that is not served; what is mapped can be
 * touched from its first byte to its last; and at the end nothing is open or mapped.
 */
#include "fuzz/client_world.h"
#include "fuzz/fuzz.h"

#include "base/bits.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 200, VIEWS_MAX = 6, ERRNO_MAX = 4095 };

static struct mnw_client *client;
static struct mnw_client_view *views[VIEWS_MAX];
static unsigned view_count;

static int checked(int result) {
    demand(result >= -ERRNO_MAX, "a result that is no errno");
    demand(result >= 0 || mnw__fail_message()[0], "a failure without a message");
    return result;
}

static uint64_t some_bytes(void) {
    uint8_t byte = fake_byte();
    return byte == 255 ? fake_number() : (uint64_t)byte * WORLD_PAGE;
}

static const char *some_name(void) {
    return fake_byte() % 4 == 3 ? "b" : "a";
}

static void connect_client(void) {
    world_forget_client();
    uint8_t byte = fake_byte();
    struct mnw_client_options options = {.size = sizeof(options),
                                         .name = "fuzz",
                                         .timeout_ms = 1000,
                                         .lost_after_ms = byte % 4 == 3 ? 100 : 0,
                                         .user_faults_only = byte & 16};
    if (checked(mnw_client_connect(&client, "/x", &options)))
        client = NULL;
}

/* The file goes that far, or these would be SIGBUS. */
static void touch(const struct mnw_client_view *view) {
    if (view->page_bytes != WORLD_PAGE)
        return; /* the machine may have no huge pages */
    const volatile char *data = mnw_client_data(view);
    size_t length = mnw_client_length(view);
    demand(data && length, "a view of nothing");
    demand(!data[0] && !data[length - 1], "a view of something else");
}

/* Who maps one view over another is to blame for what becomes of both. */
static bool is_reserve_taken(void) {
    for (unsigned i = 0; i < view_count; i++)
        if (views[i]->address == world_reserve())
            return true;
    return false;
}

static void map(void) {
    static const unsigned kinds[] = {0, MNW_VIEW_WRITE, MNW_CLIENT_RECORD, MNW_CLIENT_REPLAY, MNW_CLIENT_FOLLOW_FORK};
    struct mnw_client_map_options options = {.size = sizeof(options)};
    if (view_count == VIEWS_MAX)
        return;
    const char *name = some_name();
    for (uint8_t byte = fake_byte(), i = 0; i < mnw__array_count(kinds); i++)
        options.flags |= byte >> i & 1 ? kinds[i] : 0;
    options.offset_bytes = some_bytes();
    options.length_bytes = some_bytes();
    if (fake_byte() % 4 == 3 && options.length_bytes && !is_reserve_taken()) {
        options.address = world_reserve();
        options.length_bytes = mnw__min(options.length_bytes, WORLD_PAGE);
    }
    if (checked(mnw_client_map(&views[view_count], client, name, &options)))
        return;
    touch(views[view_count++]);
}

static void unmap(unsigned which) {
    checked(mnw_client_unmap(views[which]));
    views[which] = views[--view_count];
}

static void see(void *context, const struct mnw_image *image) {
    *(unsigned *)context += strlen(image->name) < MNW__WIRE_NAME_BYTES && strlen(image->pool) < MNW__WIRE_NAME_BYTES;
}

static void list(void) {
    unsigned seen = 0;
    int count = checked(mnw_client_images(client, see, &seen));
    demand(count < 0 || (unsigned)count == seen, "images were miscounted");
}

static void ask_for_text(void) {
    char *text = mnw_client_stats(client, fake_byte() % 2 ? MNW_STATS_PROMETHEUS : MNW_STATS_JSON);
    demand(text || mnw__fail_message()[0], "a failure without a message");
    free(text);
}

static void ask_for_pages(void) {
    static uint8_t pages[WORLD_PAGES];
    const char *name = some_name();
    uint64_t offset = some_bytes();
    size_t count = fake_byte() % 4 == 3 ? WORLD_PAGES : 1;
    checked(mnw_client_residency(client, name, offset, pages, count));
}

static void on_view(uint8_t choice) {
    if (!view_count)
        return;
    struct mnw_client_view *view = views[choice % view_count];
    switch (fake_byte() % 4) {
    case 0:
        unmap(choice % view_count);
        break;
    case 1:
        checked(mnw_client_lost(view));
        break;
    case 2:
        checked(mnw_client_save(view));
        break;
    default:
        checked(mnw_client_zero(view, some_bytes(), some_bytes()));
    }
}

static void on_range(uint8_t choice) {
    static int (*const calls[])(struct mnw_client *, const char *, uint64_t, uint64_t) = {
        mnw_client_prefetch, mnw_client_pin, mnw_client_unpin, mnw_client_invalidate};
    const char *name = some_name();
    uint64_t offset = some_bytes(), length = some_bytes();
    checked(calls[choice % mnw__array_count(calls)](client, name, offset, length));
}

/* What the library does in a child is done when its handlers have run; the child's child may have what it made anew. */
static void fork_process(unsigned generations) {
    world_fork(generations > 3);
    if (generations > 6)
        world_fork(true);
    if (generations > 3)
        fuzz_input.left = 0;
}

static void disconnect(void) {
    while (view_count)
        unmap(view_count - 1);
    if (client)
        checked(mnw_client_close(client));
    client = NULL;
}

static void step(void) {
    uint8_t choice = fake_byte();
    if (!client) {
        connect_client();
        return;
    }
    switch (choice % 16) {
    case 0:
    case 1:
    case 2:
        map();
        break;
    case 3:
    case 4:
    case 5:
        on_view(choice / 16);
        break;
    case 6:
    case 7:
    case 8:
        on_range(choice / 16);
        break;
    case 9:
        ask_for_pages();
        break;
    case 10:
        ask_for_text();
        break;
    case 11:
        list();
        break;
    case 12:
        checked(mnw_client_set_budget(client, "p", some_bytes()));
        break;
    case 13:
        fork_process(choice / 16);
        break;
    case 14:
        world.fail_in = choice / 16;
        break;
    default:
        for (unsigned i = choice / 16; i; i--)
            world_turn(1000000);
        if (choice == 255)
            disconnect();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool is_set_up;
    if (!is_set_up)
        world_set_up();
    is_set_up = true;
    fuzz_begin(data, size);
    world_begin();
    for (int i = 0; i < STEPS_MAX && fuzz_input.left; i++)
        step();
    fuzz_input.left = 0;
    world.fail_in = 0;
    disconnect();
    world_fork(true); /* once more: what a child has made for itself goes with the next one's fork */
    fuzz_check_descriptors();
    demand(!world.mapped_bytes, "a mapping was left");
    return 0;
}
