/* The work of a guest, the same on bare metal and under Linux: fills memory, writes random pages at a rate,
   beats, and checks itself on demand. What it says and what it listens to: guest/README.md. */
#include "guest.h"

#define PACE_US 1000
#define ARREARS_US 50000

static struct {
    uint64_t rate, hz, beat, pace, arrears;
    uint64_t writes_until, next_beat, last_beat, max_gap, beats;
    bool beaten;
    struct histogram touch;
} run;

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

static void write_what_is_due(uint64_t now)
{
    if (run.rate == 0)
        return;
    if (now - run.writes_until > run.arrears)
        run.writes_until = now - run.arrears;
    uint64_t due = (now - run.writes_until) * run.rate / run.hz;
    run.writes_until += due * run.hz / run.rate;
    uint64_t before = clock_ticks();
    while (due--) {
        pool_write_random();
        uint64_t after = clock_ticks();
        histogram_add(&run.touch, after - before);
        beat_if_due(after);
        before = clock_ticks();
    }
}

static void start_pacing(void)
{
    uint64_t now = clock_ticks();
    run.writes_until = now;
    run.next_beat = now;
    run.beaten = false;
}

static void verify(void)
{
    struct verdict v;
    pool_verify(&v);
    line_text(v.ok ? "verdict ok" : "verdict bad");
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
    field(" touch_us_p50=", clock_us(histogram_at(&run.touch, 500)));
    field(" touch_us_p99=", clock_us(histogram_at(&run.touch, 990)));
    field(" touch_us_max=", clock_us(run.touch.max));
    line_end();
    start_pacing();
}

static void mark(void)
{
    run.max_gap = 0;
    histogram_reset(&run.touch);
    field("mark ", clock_us(clock_ticks()));
    line_end();
}

static void obey(int byte)
{
    if (byte == 'v')
        verify();
    else if (byte == 'm')
        mark();
    else if (byte == 'd')
        pool_damage();
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
    run.beat = clock_ticks_of_us(settings->beat_us ? settings->beat_us : 1);
    run.pace = clock_ticks_of_us(PACE_US);
    run.arrears = clock_ticks_of_us(ARREARS_US);
    /* At a low rate a single write is further apart than that. */
    if (run.rate != 0 && run.arrears < 2 * (run.hz / run.rate))
        run.arrears = 2 * (run.hz / run.rate);
    pool_open(settings->pool_start, settings->pool_end, settings->fill_pages, settings->seed);
    field("umem-guest 1 memory_pages=", pool_pages());
    field(" filled_pages=", pool_filled());
    field(" seed=", settings->seed);
    line_end();
    uint64_t before = clock_ticks();
    pool_fill();
    field("ready fill_us=", clock_us(clock_ticks() - before));
    line_end();
    start_pacing();
    uint64_t tick = clock_ticks();
    for (;;) {
        write_what_is_due(clock_ticks());
        beat_if_due(clock_ticks());
        int byte = console_poll();
        if (byte >= 0)
            obey(byte);
        uint64_t now = clock_ticks();
        tick += run.pace;
        if ((int64_t)(now - tick) > 0)
            tick = now;
        clock_sleep_until((int64_t)(run.next_beat - tick) < 0 ? run.next_beat : tick);
    }
}
