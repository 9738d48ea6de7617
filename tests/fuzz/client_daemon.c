/* SPDX-License-Identifier: MIT */
/*
 * A daemon that says what the input says: sane answers where it is all zeros, and from there in every direction. Owns
 * the files whose duplicates it hands out.
 */
#include "fuzz/client_world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <minnow/minnow.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_BYTES = 100, FDS_MAX = 3, HUGE_BYTES = 2 << 20 };

enum file {
    FILE_IMAGE,
    FILE_TEXT,
    FILE_SHORT,
    FILE_NULL,
    FILE_ZERO,
    FILE_PIPE,
    FILE_FOLDER,
    FILE_VAST,
    FILE_HUGE,
    FILES
};
static struct {
    int fd;
    struct stat status;
} files[FILES];

static int memory_file(off_t bytes) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    demand(fd >= 0 && !ftruncate(fd, bytes), "no memfd");
    return fd;
}

/* Of huge pages, of which none is ever touched: the machine need not have any. */
static int huge_file(void) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    if (fd < 0)
        return memory_file(WORLD_PAGE);
    demand(!ftruncate(fd, HUGE_BYTES), "no huge file");
    return fd;
}

static int pipe_end(void) {
    int ends[2];
    demand(!pipe2(ends, O_CLOEXEC), "no pipe");
    fake_keep(ends[1]); /* open: whoever reads of it would wait */
    return ends[0];
}

void daemon_set_up(void) {
    const int fds[FILES] = {
        [FILE_IMAGE] = memory_file(WORLD_PAGES * WORLD_PAGE),
        [FILE_TEXT] = memory_file(TEXT_BYTES),
        [FILE_SHORT] = memory_file(WORLD_PAGE),
        [FILE_NULL] = open("/dev/null", O_RDONLY | O_CLOEXEC),
        [FILE_ZERO] = open("/dev/zero", O_RDONLY | O_CLOEXEC),
        [FILE_PIPE] = pipe_end(),
        [FILE_FOLDER] = open("/", O_RDONLY | O_CLOEXEC),
        [FILE_VAST] = memory_file((off_t)1 << 42),
        [FILE_HUGE] = huge_file(),
    };
    for (unsigned i = 0; i < FILES; i++) {
        files[i].fd = fake_keep(fds[i]);
        demand(!fstat(files[i].fd, &files[i].status), "no file");
    }
}

/* What a field holds: what is right, or what is not. */
static uint64_t field(uint64_t right) {
    uint8_t byte = fake_byte();
    switch (byte) {
    default:
        return byte < 128 ? right : (uint64_t)(byte - 128) * 512;
    case 248:
        return right + 1;
    case 249:
        return right - 1;
    case 250:
        return UINT64_MAX;
    case 251:
        return INT64_MAX;
    case 252:
        return (uint64_t)1 << 63;
    case 253:
        return (uint64_t)1 << (fake_byte() % 64);
    case 254:
        return UINT32_MAX;
    case 255:
        return fake_number();
    }
}

static void name(char to[MNW__WIRE_NAME_BYTES]) {
    uint8_t byte = fake_byte();
    memset(to, byte == 255 ? 'x' : 0, MNW__WIRE_NAME_BYTES);
    to[0] = byte < 254 ? 'a' : to[0];
}

static void describe(struct mnw__wire_image *image, enum file file) {
    memset(image, 0, sizeof(*image));
    name(image->name);
    name(image->pool);
    image->size_bytes = field((uint64_t)files[file].status.st_size - 100);
    image->resident_bytes = field(0);
    image->page_bytes = (uint32_t)field(file == FILE_HUGE ? HUGE_BYTES : WORLD_PAGE);
    image->extent_bytes = (uint32_t)field(65536);
    image->backing = (uint32_t)field(file == FILE_HUGE ? MNW_BACKING_HUGETLB_2M : MNW_BACKING_SHMEM);
}

static size_t say_images(struct mnw__wire_list_answer *answer) {
    uint8_t byte = fake_byte();
    answer->count = byte % 18;
    answer->total = (uint32_t)field(answer->count);
    for (unsigned i = 0; i < answer->count && i < MNW__WIRE_IMAGES_MAX; i++)
        if (i < 2)
            describe(&answer->images[i], FILE_IMAGE);
        else
            answer->images[i] = answer->images[0];
    return mnw__wire_list_bytes(answer->count < MNW__WIRE_IMAGES_MAX ? answer->count : MNW__WIRE_IMAGES_MAX);
}

static size_t say_hello(struct mnw__wire_hello_answer *answer) {
    *answer = (struct mnw__wire_hello_answer){
        .version = (uint32_t)field(MNW__WIRE_VERSION),
        .features = (uint32_t)field(MNW__WIRE_SETTLED | MNW__WIRE_KEPT),
        .requests_max = 8,
    };
    return sizeof(*answer);
}

static size_t say_opened(struct mnw__wire_open_answer *answer, enum file file) {
    *answer = (struct mnw__wire_open_answer){.image = (uint32_t)field(1)};
    answer->device = field(files[file].status.st_dev);
    answer->inode = field(files[file].status.st_ino);
    describe(&answer->about, file);
    return sizeof(*answer);
}

/* The sane body of an answer to this; which file goes with it, if one does. */
static size_t say_yes(struct mnw__wire_packet *packet, const struct world_request *to, enum file *file) {
    switch (to->header.type) {
    case MNW__WIRE_HELLO:
        return say_hello(&packet->hello_answer);
    case MNW__WIRE_LIST:
        return say_images(&packet->list_answer);
    case MNW__WIRE_OPEN:
        *file = fake_byte() % 4 ? FILE_IMAGE : (enum file)(fake_byte() % FILES);
        return say_opened(&packet->open_answer, *file);
    case MNW__WIRE_STATS:
        *file = FILE_TEXT;
        packet->text_answer.bytes = field(TEXT_BYTES);
        return sizeof(packet->text_answer);
    case MNW__WIRE_RESIDENCY:
        *file = FILE_IMAGE;
        packet->text_answer.bytes = field(to->range.length / WORLD_PAGE);
        return sizeof(packet->text_answer);
    case MNW__WIRE_CLAIM:
    case MNW__WIRE_END:
        *file = FILE_TEXT; /* any descriptor */
        return 0;
    default:
        return 0;
    }
}

static size_t fail(struct mnw__wire_packet *packet, unsigned type, uint32_t request) {
    size_t bytes = mnw__wire_seal_failure(packet, type, request, -1, "as the input wants it");
    packet->header.status = (int32_t)field((uint64_t)-1);
    return bytes;
}

static size_t answer(struct mnw__wire_packet *packet, int *fds, unsigned *fd_count, uint8_t choice) {
    unsigned known = world.sent_count < WORLD_SENT ? world.sent_count : WORLD_SENT;
    if (!known)
        return 0;
    const struct world_request *to = &world.sent[(world.sent_count - 1 - choice % known) % WORLD_SENT];
    if (fake_byte() >= 224)
        return fail(packet, to->header.type, to->header.request);
    if (to->header.type == MNW__WIRE_CLAIM && fake_byte() % 4 == 0)
        return mnw__wire_seal_failure(packet, MNW__WIRE_CLAIM, to->header.request, -ENOENT, "there is nothing left");
    enum file file = FILES;
    size_t bytes = mnw__wire_seal(packet, to->header.type, to->header.request, say_yes(packet, to, &file));
    if (file != FILES)
        fds[(*fd_count)++] = fake_duplicate(files[file].fd);
    return bytes;
}

static size_t tell(struct mnw__wire_packet *packet, uint8_t choice) {
    unsigned type = MNW__WIRE_EVENT_PREFETCH + choice % 5;
    size_t body_bytes = 0;
    switch (type) {
    case MNW__WIRE_EVENT_PREFETCH:
        packet->event_prefetch =
            (struct mnw__wire_event_prefetch){.result = (int32_t)field(0), .image = 1, .cookie = fake_byte()};
        body_bytes = sizeof(packet->event_prefetch);
        break;
    case MNW__WIRE_EVENT_RESTARTED:
        packet->event_restarted = (struct mnw__wire_event_restarted){1};
        body_bytes = sizeof(packet->event_restarted);
        break;
    case MNW__WIRE_EVENT_DETACHED:
        packet->event_detached = (struct mnw__wire_event_detached){fake_byte(), (int32_t)field((uint64_t)-3)};
        body_bytes = sizeof(packet->event_detached);
        break;
    default:
        return fail(packet, type, 0);
    }
    return mnw__wire_seal(packet, type, 0, body_bytes);
}

size_t daemon_repeat(struct mnw__wire_packet *packet) {
    packet->event_restarted = (struct mnw__wire_event_restarted){1};
    return mnw__wire_seal(packet, MNW__WIRE_EVENT_RESTARTED, 0, sizeof(packet->event_restarted));
}

static size_t talk_nonsense(struct mnw__wire_packet *packet) {
    size_t bytes = fake_byte() * (size_t)(fake_byte() % 2 ? 16 : 1);
    for (size_t i = 0; i < bytes && i < sizeof(*packet); i++)
        ((uint8_t *)packet)[i] = fake_byte();
    return bytes < sizeof(*packet) ? bytes : sizeof(*packet);
}

/* Descriptors beside those that belong there, or instead. */
static void change_descriptors(int *fds, unsigned *fd_count) {
    while (*fd_count)
        close(fds[--*fd_count]);
    for (unsigned i = fake_byte() % (FDS_MAX + 1); i; i--)
        fds[(*fd_count)++] = fake_duplicate(files[fake_byte() % FILES].fd);
}

/* However it came to be said. */
static void note_served(const struct mnw__wire_header *header) {
    for (unsigned i = 0; i < WORLD_SENT; i++) {
        const struct world_request *to = &world.sent[i];
        if (header->type == MNW__WIRE_ATTACH && to->header.type == header->type &&
            to->header.request == header->request && !header->status)
            world_serve(to->attach.address);
    }
}

size_t daemon_speak(struct mnw__wire_packet *packet, int *fds, unsigned *fd_count) {
    uint8_t choice = fake_byte();
    memset(packet, 0, sizeof(*packet));
    size_t bytes = choice % 4 == 3  ? tell(packet, choice / 4)
                   : choice == 0xfe ? talk_nonsense(packet)
                                    : answer(packet, fds, fd_count, choice / 4);
    uint8_t change = fake_byte();
    if (change >= 250)
        change_descriptors(fds, fd_count);
    if (change >= 240 && change < 250) /* somewhere in the header, or early in the body */
        ((uint8_t *)packet)[fake_byte() % 64] ^= fake_byte();
    if (change >= 232 && change < 240)
        bytes += fake_byte() - (size_t)128;
    note_served(&packet->header);
    return bytes > sizeof(*packet) ? 0 : bytes;
}
