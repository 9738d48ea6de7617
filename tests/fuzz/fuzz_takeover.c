/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: whatever a worker may find that takes over: records of any content, in a memfd of any kind, and
 * descriptors under any name, or missing.
 *
 * Takes over by the daemon's own code, over a library that is a fake, and ends what came of it. Whatever is found: no
 * call of the library with nonsense, who refuses has taken nothing, and at the end nothing is open, pinned or kept.
 */
#include "fuzz/fake_minnow.h"
#include "fuzz/fuzz.h"

#include "base/error.h"
#include "daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STEPS_MAX = 40, HELD_MAX = 100, HEADER_BYTES = 32 };

static struct mnw__daemon daemon_;
static struct mnw__state written; /* by the worker before */
static struct mnw__held_fd held[HELD_MAX];
static unsigned held_count;

static const char configuration[] =
    "{\"socket\": \"/x\", \"access\": {\"users\": [0, 65534]},"
    "\"limits\": {\"views\": 3, \"bytes\": 8388608, \"pinned\": 1048576, \"sessions\": 3, \"faults_per_second\": 9},"
    "\"pools\": [{\"name\": \"p\", \"budget\": \"4M\"}],"
    "\"images\": [{\"name\": \"a\", \"uri\": \"file:///a\"}, {\"name\": \"b\", \"uri\": \"x://b\"}]}";

static void set_up(void) {
    struct mnw__config *config = mnw__config_new();
    demand(config && !mnw__config_parse(config, configuration, sizeof(configuration) - 1, "fuzz") &&
               !mnw__config_finish(config),
           "the configuration is refused");
    daemon_.config = config;
    daemon_.pool_count = 1;
    daemon_.pools[0].config = &config->pools[0];
    daemon_.image_count = config->image_count;
    demand(!mnw__finished_open(&daemon_.finished) && !mnw__lane_open(&daemon_.quick, "q", 0, &daemon_.finished) &&
               !mnw__lane_open(&daemon_.slow, "s", 0, &daemon_.finished),
           "no lanes");
}

/* ---- the holder ---- */

int mnw__notify_send(const char *path, const char *text, const int *fds, unsigned fd_count) {
    demand(path && text[0] && (!fd_count || fcntl(fds[0], F_GETFD) >= 0), "tells the holder nothing");
    return fake_maybe(-ENOBUFS, "telling the holder");
}
int mnw__notify_barrier(const char *path, int timeout_ms) {
    demand(path && timeout_ms > 0, "waits for ever");
    return fake_maybe(-ETIMEDOUT, "waiting for the holder");
}

static void hold(const char *name, int fd) {
    if (held_count == HELD_MAX)
        close(fd);
    else
        held[held_count++] = (struct mnw__held_fd){strdup(name), fd};
}

static void hold_of(const char *kind, unsigned index, uint32_t serial) {
    char name[MNW__STATE_FDNAME_BYTES];
    uint8_t byte = fake_byte();
    mnw__state_fdname(name, kind, index, byte >= 240 ? serial + 1 : serial);
    if (byte < 224 || byte >= 240)
        hold(name, fake_fd());
    if (byte == 255)
        hold(name, fake_fd()); /* twice */
}

static void hold_anything(void) {
    static const char *const names[] = {"state", "listen", "config", "child.1.1", "stray.7", "view", "pages.0.1", ""};
    hold(names[fake_byte() % 8], fake_fd());
}

/* ---- what the worker before wrote ---- */

static uint32_t index_below(uint32_t count) {
    uint8_t byte = fake_byte();
    return byte < 240 ? byte % 4 : byte < 250 ? count - 1 : byte < 253 ? count : UINT32_MAX;
}

static uint64_t field(void) {
    uint8_t byte = fake_byte();
    return byte == 255 ? fake_number() : byte;
}

static uint64_t bytes_field(void) {
    uint64_t value = field();
    return value < 256 ? value * 4096 : value;
}

static void fill_name(char name[MNW__WIRE_NAME_BYTES]) {
    uint8_t byte = fake_byte();
    memset(name, byte >= 250 ? 'x' : 0, MNW__WIRE_NAME_BYTES);
    name[0] = byte < 200 ? (char)("abc"[byte % 3]) : (char)byte;
}

static uint32_t begin_record(struct mnw__record *record) {
    uint8_t byte = fake_byte();
    record->serial = byte % 16 == 15 ? (uint32_t)field() : 1u + byte % 2;
    atomic_store(&record->state, byte < 192 ? MNW__RECORD_VALID : byte < 224 ? MNW__RECORD_TENTATIVE : byte);
    return record->serial;
}

static void write_session(void) {
    uint32_t index = index_below(MNW__STATE_SESSIONS) % MNW__STATE_SESSIONS;
    struct mnw__record_session *record = &written.sessions[index];
    hold_of("session", index, begin_record(&record->record));
    record->greeted = fake_byte();
    fill_name(record->name);
}

static void write_image(void) {
    uint32_t index = index_below(MNW__STATE_IMAGES) % MNW__STATE_IMAGES;
    struct mnw__record_image *record = &written.images[index];
    uint32_t serial = begin_record(&record->record);
    fill_name(record->name);
    hold_of("pages", index, serial);
    hold_of("words", index, serial);
}

static void write_ranges(uint32_t index) {
    struct mnw__record_ranges *record = &written.ranges[index];
    uint8_t byte = fake_byte();
    atomic_store(&record->current, byte % 4 == 3 ? (uint32_t)field() : byte % 2);
    for (unsigned i = 0; i < 2; i++) {
        record->counts[i] = (uint32_t)field();
        record->ranges[i][0] = (struct mnw_view_range){.address = bytes_field(), .length_bytes = bytes_field()};
    }
}

static void write_view(void) {
    uint32_t index = index_below(MNW__STATE_VIEWS) % MNW__STATE_VIEWS;
    struct mnw__record_view *record = &written.views[index];
    uint32_t serial = begin_record(&record->record);
    record->session = index_below(MNW__STATE_SESSIONS);
    record->image = index_below(MNW__STATE_IMAGES);
    record->session_serial = 1u + fake_byte() % 2;
    record->id = (uint32_t)field();
    record->flags = (uint32_t)field();
    record->is_child = fake_byte() % 4 == 3;
    record->is_recording = fake_byte() % 4 == 3;
    record->page_bytes = (uint32_t)bytes_field();
    record->address = bytes_field();
    record->length = bytes_field();
    record->offset = bytes_field();
    hold_of(record->is_child ? "child" : "view", index, serial);
    if (fake_byte() % 4 == 3 || record->is_child)
        write_ranges(index);
}

static void write_pin(void) {
    uint32_t index = index_below(MNW__STATE_PINS) % MNW__STATE_PINS;
    struct mnw__record_pin *record = &written.pins[index];
    begin_record(&record->record);
    record->session = index_below(MNW__STATE_SESSIONS);
    record->image = index_below(MNW__STATE_IMAGES);
    record->session_serial = 1u + fake_byte() % 2;
    record->offset = bytes_field();
    record->length = bytes_field();
    record->cookie = field();
}

static void write_records(void) {
    for (unsigned i = 0; i < STEPS_MAX && fuzz_input.left; i++)
        switch (fake_byte() % 8) {
        case 0:
        case 1:
            write_session();
            break;
        case 2:
            write_image();
            break;
        case 3:
            hold_anything();
            break;
        case 4:
        case 5:
            write_view();
            break;
        case 6:
            write_pin();
            break;
        default:
            return; /* the rest is for what fails */
        }
}

/* A memfd that is none of ours: without seals, cut, empty, or with another header. */
static int spoil(int fd, uint8_t how) {
    uint8_t header[HEADER_BYTES];
    if (how % 4 == 3) {
        demand(pread(fd, header, sizeof(header), 0) == sizeof(header), "no header");
        header[fake_byte() % sizeof(header)] ^= fake_byte();
        demand(pwrite(fd, header, sizeof(header), 0) == sizeof(header), "no header");
        return fd;
    }
    close(fd);
    fd = how % 4 == 0 ? fake_fd() : memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (how % 4 == 2)
        demand(!ftruncate(fd, HEADER_BYTES) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "no seals");
    return fd;
}

static void write_all(void) {
    uint8_t how = fake_byte();
    demand(!mnw__state_create(&written), "no records");
    write_records();
    int fd = fake_duplicate(written.fd);
    mnw__state_close(&written);
    if (how != 254)
        hold("state", how < 240 ? fd : spoil(fd, how));
    else
        close(fd);
    daemon_.holding = (struct mnw__holding){.standby = -1, .records = -1, .has_choice = how % 2};
    daemon_.holding.holder = strdup("x");
    daemon_.holding.fds = memcpy(calloc(HELD_MAX, sizeof(*held)), held, sizeof(held));
    daemon_.holding.count = held_count;
    held_count = 0;
}

/* ---- the end ---- */

static void end_all(void) {
    fuzz_input.left = 0;
    fake_settle(&daemon_);
    while (daemon_.sessions)
        mnw__session_drop(daemon_.sessions, -1, "the end");
    fake_settle(&daemon_);
    fake_end_orphans(&daemon_);
    for (unsigned i = 0; i < daemon_.image_count; i++)
        mnw__image_close(&daemon_, &daemon_.images[i]);
}

static void check_refusal(int error) {
    demand(error == -ESTALE && daemon_.holding.has_choice, "a worker does not start, and needs not refuse");
    for (unsigned i = 0, taken = 0; i < daemon_.holding.count; i++)
        demand((taken += daemon_.holding.fds[i].fd < 0) <= 1, "a worker that refuses has taken something");
}

static void check_nothing_left(void) {
    const struct mnw__state *state = &daemon_.state;
    demand(!daemon_.dead && !daemon_.session_count && !daemon_.child_count && !daemon_.strays, "a session was left");
    demand(!fake.view_count && !fake.pins && !fake.caches && !fake.stores && !fake.limits,
           "a view, pin, image or limit was left");
    demand(fake_all_free(state->sessions, sizeof(*state->sessions), MNW__STATE_SESSIONS) &&
               fake_all_free(state->images, sizeof(*state->images), MNW__STATE_IMAGES) &&
               fake_all_free(state->views, sizeof(*state->views), MNW__STATE_VIEWS) &&
               fake_all_free(state->pins, sizeof(*state->pins), MNW__STATE_PINS),
           "a record was left");
}

static void begin(void) {
    const struct mnw__config *config = daemon_.config;
    fake = (struct fake){0};
    daemon_.ends[0] = daemon_.ends[1] = -1;
    for (unsigned i = 0; i < config->image_count; i++)
        daemon_.images[i] =
            (struct mnw__daemon_image){.config = &config->images[i], .pool = &daemon_.pools[0], .record = -1};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!daemon_.config)
        set_up();
    fuzz_begin(data, size);
    begin();
    write_all();
    int error = mnw__takeover(&daemon_);
    if (!error)
        mnw__takeover_announce(&daemon_);
    else if (fake.failures == 0)
        check_refusal(error);
    end_all();
    if (!error)
        check_nothing_left();
    mnw__claims_close(&daemon_);
    mnw__state_close(&daemon_.state);
    mnw__holding_close(&daemon_.holding);
    fuzz_check_descriptors();
    return 0;
}
