/* SPDX-License-Identifier: MIT */
#include "handler.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAP_HUGE_2M_FLAG (21 << 26)
#define MAP_HUGE_1G_FLAG (30 << 26)

/* ---- one fault ---- */

static void answer(struct handler *handler, uint64_t address) {
    uint64_t page = address & ~(uint64_t)(handler->page_bytes - 1), offset = page - (uintptr_t)handler->data;
    int error;
    /* Before the faulting thread goes on and looks. */
    atomic_fetch_add_explicit(&handler->faults, 1, memory_order_relaxed);
    if (handler->answer == ANSWER_COPY) {
        struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)handler->source + offset, .len = handler->page_bytes};
        error = ioctl(handler->uffd, UFFDIO_COPY, &copy);
    } else {
        size_t length = handler->page_bytes * (handler->around ? handler->around : 1), rest = handler->length - offset;
        struct uffdio_continue range = {.range = {.start = page, .len = length < rest ? length : rest}};
        if (handler->answer == ANSWER_FILL)
            memcpy(handler->area->alias + offset, handler->source + offset, handler->page_bytes);
        error = ioctl(handler->uffd, UFFDIO_CONTINUE, &range);
    }
    /* Another fault on the page came first: nobody has woken this one. */
    if (error) {
        struct uffdio_range range = {.start = page, .len = handler->page_bytes};
        ioctl(handler->uffd, UFFDIO_WAKE, &range);
    }
}

/* ---- in a thread ---- */

static void *serve(void *argument) {
    struct handler *handler = argument;
    struct uffd_msg message;
    handler->thread_id = gettid();
    while (!atomic_load_explicit(&handler->stop, memory_order_relaxed)) {
        if (handler->kind == HANDLER_SPINNING && atomic_load_explicit(&handler->resting, memory_order_relaxed)) {
            while (sem_wait(&handler->go)) {
            }
            continue;
        }
        ssize_t got = read(handler->uffd, &message, sizeof(message));
        if (got == (ssize_t)sizeof(message) && message.event == UFFD_EVENT_PAGEFAULT)
            answer(handler, message.arg.pagefault.address);
        else if (got < 0 && errno != EAGAIN && errno != EINTR)
            break;
    }
    return NULL;
}

void handler_wake(struct handler *handler) {
    if (handler->kind != HANDLER_SPINNING)
        return;
    atomic_store(&handler->resting, false);
    sem_post(&handler->go);
}

void handler_rest(struct handler *handler) {
    atomic_store(&handler->resting, true);
}

/* ---- in the signal handler ---- */

#define SIGNALLED_MAX 16

static _Atomic(struct handler *) signalled[SIGNALLED_MAX];
static struct sigaction chained;

static void on_sigbus(int number, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    for (unsigned i = 0; i < SIGNALLED_MAX; i++) {
        struct handler *handler = atomic_load(&signalled[i]);
        if (!handler || address - (uintptr_t)handler->data >= handler->length)
            continue;
        int saved = errno;
        answer(handler, address);
        errno = saved;
        return;
    }
    if (chained.sa_flags & SA_SIGINFO)
        chained.sa_sigaction(number, info, context);
    else
        sigaction(SIGBUS, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
}

static int join_signalled(struct handler *handler) {
    static bool installed;
    if (!installed) {
        struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
        if (sigaction(SIGBUS, &action, &chained))
            return -errno;
        installed = true;
    }
    for (unsigned i = 0; i < SIGNALLED_MAX; i++) {
        struct handler *nobody = NULL;
        if (atomic_compare_exchange_strong(&signalled[i], &nobody, handler))
            return 0;
    }
    return -EMFILE;
}

static void leave_signalled(const struct handler *handler) {
    for (unsigned i = 0; i < SIGNALLED_MAX; i++)
        if (atomic_load(&signalled[i]) == handler)
            atomic_store(&signalled[i], NULL);
}

/* ---- from beginning to end ---- */

static volatile const unsigned char *map_anonymous(const struct area *area) {
    int huge = area->kind == AREA_2M   ? MAP_HUGETLB | MAP_HUGE_2M_FLAG
               : area->kind == AREA_1G ? MAP_HUGETLB | MAP_HUGE_1G_FLAG
                                       : 0;
    void *at =
        mmap(NULL, area->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | huge, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (!huge)
        madvise(at, area->length, MADV_NOHUGEPAGE);
    madvise(at, area->length, MADV_DONTFORK);
    return at;
}

/* As long as the area, so that any page of it has its bytes in one piece. */
static int take_source(struct handler *handler, const struct scratch *contents) {
    handler->source_length = (handler->length + contents->size_bytes - 1) / contents->size_bytes * contents->size_bytes;
    void *at = mmap(NULL, handler->source_length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    handler->source = at;
    for (size_t done = 0; done < handler->source_length; done += contents->size_bytes)
        if (mmap(handler->source + done, contents->size_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE | MAP_FIXED,
                 contents->fd, 0) == MAP_FAILED)
            return -errno;
    return 0;
}

static int arm(struct handler *handler) {
    uint64_t features = handler->area->huge_bytes > 4096 && handler->area->kind != AREA_GRADED
                            ? UFFD_FEATURE_MINOR_HUGETLBFS
                            : UFFD_FEATURE_MINOR_SHMEM;
    if (handler->kind == HANDLER_SIGBUS)
        features |= UFFD_FEATURE_SIGBUS;
    handler->uffd = uffd_open(features, handler->kind == HANDLER_SPINNING ? O_NONBLOCK : 0);
    if (handler->uffd < 0)
        return handler->uffd;
    uint64_t modes = UFFDIO_REGISTER_MODE_MISSING;
    if (handler->answer != ANSWER_COPY)
        modes |= UFFDIO_REGISTER_MODE_MINOR;
    return uffd_arm(handler->uffd, handler->data, handler->length, modes);
}

static int begin(struct handler *handler) {
    if (handler->kind == HANDLER_SIGBUS)
        return join_signalled(handler);
    int error = -pthread_create(&handler->thread, NULL, serve, handler);
    while (!error && !handler->thread_id)
        sched_yield();
    return error;
}

int handler_open(struct handler *handler, struct area *area, enum handler_kind kind, enum handler_answer answers,
                 const struct scratch *contents) {
    memset(handler, 0, sizeof(*handler));
    handler->kind = kind;
    handler->answer = answers;
    handler->area = area;
    handler->uffd = -1;
    handler->length = area->length;
    handler->page_bytes = area->page_bytes;
    handler->resting = true;
    handler->data = answers == ANSWER_COPY ? map_anonymous(area) : area->view;
    int error = handler->data ? 0 : -ENOMEM;
    sem_init(&handler->go, 0, 0);
    if (!error && answers != ANSWER_CONTINUE)
        error = take_source(handler, contents);
    if (!error)
        error = arm(handler);
    if (!error)
        error = begin(handler);
    if (error)
        handler_close(handler);
    return error;
}

/* read() is where a thread may be cancelled, and between faults a blocking one is nowhere else. */
void handler_close(struct handler *handler) {
    if (!handler->area)
        return;
    leave_signalled(handler);
    if (handler->thread_id) {
        atomic_store(&handler->stop, true);
        sem_post(&handler->go);
        if (handler->kind == HANDLER_BLOCKING)
            pthread_cancel(handler->thread);
        pthread_join(handler->thread, NULL);
    }
    if (handler->uffd >= 0)
        close(handler->uffd);
    if (handler->source)
        munmap(handler->source, handler->source_length);
    if (handler->answer == ANSWER_COPY && handler->data)
        munmap((void *)(uintptr_t)handler->data, handler->length);
    sem_destroy(&handler->go);
    handler->area = NULL;
}

void handler_reset(const struct handler *handler) {
    if (handler->answer == ANSWER_FILL)
        area_punch(handler->area, 0, handler->length);
    else
        madvise((void *)(uintptr_t)handler->data, handler->length, MADV_DONTNEED);
}
