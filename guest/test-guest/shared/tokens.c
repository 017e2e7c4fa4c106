/* A token goes round from worker to worker by inter-processor interrupts. One that is lost ends it for ever. */
#include "guest.h"
#include "shared.h"

/* Between two rounds. */
#define PAUSE_US 5000

static unsigned workers;
static uint64_t pause;

/* A worker's letter box: the newest token. */
static struct {
    uint64_t token, seen;
    bool here;
} __attribute__((aligned(64))) box[MAX_WORKERS];

void tokens_open(unsigned count)
{
    workers = count;
    pause = clock_ticks_of_us(PAUSE_US);
}

/* An interrupt for a worker that is not there yet would be lost, and one sent twice may come once. */
static bool all_are_here(void)
{
    for (unsigned worker = 0; worker < workers; worker++)
        if (!__atomic_load_n(&box[worker].here, __ATOMIC_ACQUIRE))
            return false;
    return true;
}

void tokens_pass(unsigned worker)
{
    static uint64_t next_round;
    bool rung = take_ring();
    uint64_t token = __atomic_load_n(&box[worker].token, __ATOMIC_ACQUIRE);
    /* Worker 0 rests between two rounds; the interrupt is long gone then. */
    static bool begun, due;
    __atomic_store_n(&box[worker].here, true, __ATOMIC_RELEASE);
    if (worker == 0) {
        due |= rung || (!begun && all_are_here());
        begun |= due;
        if (!due || (int64_t)(clock_ticks() - next_round) < 0)
            return;
        due = false;
        next_round = clock_ticks() + pause;
    } else if (!rung || token == box[worker].seen) {
        return;
    }
    box[worker].seen = token;
    unsigned to = (worker + 1) % workers;
    __atomic_store_n(&box[to].token, token + 1, __ATOMIC_RELEASE);
    ring(to);
}

uint64_t tokens_passed(void)
{
    uint64_t passed = 0;
    for (unsigned worker = 0; worker < workers; worker++)
        if (box[worker].token > passed)
            passed = box[worker].token;
    return passed;
}
