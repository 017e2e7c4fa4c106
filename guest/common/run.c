/* The work of a guest, the same on bare metal and under Linux: fills memory, writes random pages at a rate,
   beats, and checks itself on demand. What it says and what it listens to: guest/README.md. */
#include "guest.h"

#define PACE_US 1000
#define ARREARS_US 50000

static struct {
    uint64_t rate, hz, beat, pace, arrears;
    unsigned workers;
    uint64_t next_beat, last_beat, max_gap, beats;
    bool beaten;
    /* Workers do nothing while it is set; how many stand still. */
    unsigned hold, held;
} run;

/* What each worker has for itself. */
static struct pacing {
    uint64_t writes_until, tick;
    unsigned marked;
    struct histogram touch;
} pacing[MAX_WORKERS];

static void field(const char *name, uint64_t value)
{
    line_text(name);
    line_number(value);
}

static void beat_if_due(uint64_t now)
{
    if ((int64_t)(now - run.next_beat) < 0)
        return;
    if (run.beaten && now - run.last_beat > run.max_gap)
        run.max_gap = now - run.last_beat;
    run.beaten = true;
    run.last_beat = now;
    run.beats++;
    run.next_beat += run.beat;
    /* Missed beats are not made up for: the gap is what they are there to show. */
    if ((int64_t)(now - run.next_beat) >= 0)
        run.next_beat = now + run.beat;
    field("h ", clock_us(now));
    field(" ", pool_writes());
    line_end();
}

static void write_what_is_due(unsigned worker, uint64_t now)
{
    struct pacing *own = &pacing[worker];
    uint64_t scale = run.hz * run.workers;
    if (run.rate == 0)
        return;
    if (now - own->writes_until > run.arrears)
        own->writes_until = now - run.arrears;
    uint64_t due = (now - own->writes_until) * run.rate / scale;
    own->writes_until += due * scale / run.rate;
    uint64_t before = clock_ticks();
    while (due--) {
        pool_write_random(worker);
        uint64_t after = clock_ticks();
        histogram_add(&own->touch, after - before);
        if (worker == 0)
            beat_if_due(after);
        before = clock_ticks();
    }
}

static void start_pacing(unsigned worker)
{
    pacing[worker].writes_until = pacing[worker].tick = clock_ticks();
}

static void start_beats(void)
{
    run.next_beat = clock_ticks();
    run.beaten = false;
}

/* Works for one pace, and sleeps until the next or an earlier time. */
static void work(unsigned worker, bool beats)
{
    struct pacing *own = &pacing[worker];
    write_what_is_due(worker, clock_ticks());
    worker_aside(worker);
    uint64_t now = clock_ticks();
    if ((int64_t)(now - own->tick) >= 0) {
        own->tick += run.pace;
        if ((int64_t)(now - own->tick) > 0)
            own->tick = now;
    }
    bool beat_first = beats && (int64_t)(run.next_beat - own->tick) < 0;
    clock_sleep_until(beat_first ? run.next_beat : own->tick);
}

void run_worker(unsigned worker)
{
    start_pacing(worker);
    for (;;) {
        if (__atomic_load_n(&run.hold, __ATOMIC_ACQUIRE)) {
            __atomic_add_fetch(&run.held, 1, __ATOMIC_RELEASE);
            while (__atomic_load_n(&run.hold, __ATOMIC_ACQUIRE))
                clock_sleep_until(clock_ticks() + run.pace);
            __atomic_sub_fetch(&run.held, 1, __ATOMIC_RELEASE);
            start_pacing(worker);
        }
        if (__atomic_exchange_n(&pacing[worker].marked, 0, __ATOMIC_ACQUIRE))
            histogram_reset(&pacing[worker].touch);
        work(worker, false);
    }
}

/* Has the other workers stand still or go on, and waits until they do. */
static void hold(bool held)
{
    unsigned others = run.workers - 1;
    __atomic_store_n(&run.hold, held, __ATOMIC_RELEASE);
    while (__atomic_load_n(&run.held, __ATOMIC_ACQUIRE) != (held ? others : 0))
        clock_sleep_until(clock_ticks() + run.pace);
}

static void verify(void)
{
    struct verdict v;
    static struct histogram touch;
    hold(true);
    pool_verify(&v);
    histogram_reset(&touch);
    for (unsigned worker = 0; worker < run.workers; worker++)
        histogram_merge(&touch, &pacing[worker].touch);
    bool good = aside_good();
    line_text(v.ok && good ? "verdict ok" : "verdict bad");
    field(" checked_pages=", v.checked);
    field(" bad_pages=", v.bad);
    line_text(" first_bad=");
    if (v.bad)
        line_number(v.first_bad);
    else
        line_text("-");
    field(" writes=", pool_writes());
    field(" beats=", run.beats);
    field(" max_gap_us=", clock_us(run.max_gap));
    field(" touch_us_p50=", clock_us(histogram_at(&touch, 500)));
    field(" touch_us_p99=", clock_us(histogram_at(&touch, 990)));
    field(" touch_us_max=", clock_us(touch.max));
    field(" workers=", run.workers);
    aside_fields();
    line_end();
    hold(false);
    start_pacing(0);
    start_beats();
}

static void mark(void)
{
    run.max_gap = 0;
    histogram_reset(&pacing[0].touch);
    for (unsigned worker = 1; worker < run.workers; worker++)
        __atomic_store_n(&pacing[worker].marked, 1, __ATOMIC_RELEASE);
    aside_mark();
    field("mark ", clock_us(clock_ticks()));
    line_end();
}

/* Asked for at a moment, and nothing begins anew. */
static void gaps(void)
{
    field("gap ", clock_us(run.max_gap));
    field(" ", aside_gap_us());
    line_end();
}

static void obey(int byte)
{
    if (byte == 'v')
        verify();
    else if (byte == 'm')
        mark();
    else if (byte == 'g')
        gaps();
    else if (byte == 'd')
        pool_damage();
    else if (byte == 'r' || byte == 'k')
        aside_damage(byte);
    else if (byte == 'q') {
        line_text("bye");
        line_end();
        power_off();
    }
}

void run_guest(const struct settings *settings)
{
    run.hz = clock_hz();
    run.rate = settings->rate;
    run.workers = settings->workers;
    run.beat = clock_ticks_of_us(settings->beat_us ? settings->beat_us : 1);
    run.pace = clock_ticks_of_us(PACE_US);
    run.arrears = clock_ticks_of_us(ARREARS_US);
    /* At a low rate a single write is further apart than that. */
    if (run.rate != 0 && run.arrears < 2 * (run.hz * run.workers / run.rate))
        run.arrears = 2 * (run.hz * run.workers / run.rate);
    pool_open(settings->pool_start, settings->pool_end, settings->fill_pages, settings->seed,
              run.workers);
    field("umem-guest 1 memory_pages=", pool_pages());
    field(" filled_pages=", pool_filled());
    field(" seed=", settings->seed);
    field(" workers=", run.workers);
    line_end();
    uint64_t before = clock_ticks();
    pool_fill();
    field("ready fill_us=", clock_us(clock_ticks() - before));
    line_end();
    workers_start(run.workers);
    start_pacing(0);
    start_beats();
    for (;;) {
        beat_if_due(clock_ticks());
        int byte = console_poll();
        if (byte >= 0)
            obey(byte);
        work(0, true);
    }
}
