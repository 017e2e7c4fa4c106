/* The pages that the guest owns: all RAM behind its image and its generation table. The first of them are
   filled; the others must stay zero.

   A filled page: word 0 says which page this is, word 1 its generation, the other 510 words follow from
   the seed and the page's number. A write adds one to the generation in the page and, apart from that,
   one in the table: a page that goes back to an older state, is exchanged or loses a write can never agree
   with the table again. Each worker writes pages of its own, every so-manieth. */
#include "guest.h"

#define WORDS (PAGE / 8)
#define HEAD 2

static uint64_t *pages;
static uint32_t *generations;
static uint64_t page_count, filled, seed;
static unsigned workers;
/* A cache line each. */
static struct {
    uint64_t random_state, writes;
} __attribute__((aligned(64))) worker_state[MAX_WORKERS];

/* The finalizer of SplitMix64: a bijection, so different pages start differently. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ul;
    x = (x ^ x >> 27) * 0x94d049bb133111ebul;
    return x ^ x >> 31;
}

/* Marsaglia's xorshift64 (13, 7, 17); the state must not be 0. Six instructions a word. */
static inline uint64_t next(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static uint64_t head_of(uint64_t page)
{
    return mix(seed + page * 0x9e3779b97f4a7c15ul);
}

static uint64_t content_of(uint64_t page)
{
    return mix(head_of(page) + 0x9e3779b97f4a7c15ul) | 1;
}

void pool_open(uint64_t start, uint64_t end, uint64_t fill_pages, uint64_t with_seed, unsigned count)
{
    uint64_t free_pages = (end - start) / PAGE;
    uint64_t table_pages = (free_pages * sizeof *generations + PAGE - 1) / PAGE;
    generations = (uint32_t *)(uintptr_t)start;
    pages = (uint64_t *)(uintptr_t)(start + table_pages * PAGE);
    page_count = free_pages - table_pages;
    filled = fill_pages < page_count ? fill_pages : page_count;
    seed = with_seed;
    workers = count;
    for (unsigned worker = 0; worker < workers; worker++)
        worker_state[worker].random_state = mix((seed + worker) ^ 0x6a09e667f3bcc909ul) | 1;
}

uint64_t pool_pages(void)
{
    return page_count;
}

uint64_t pool_filled(void)
{
    return filled;
}

uint64_t pool_writes(void)
{
    uint64_t sum = 0;
    for (unsigned worker = 0; worker < workers; worker++)
        sum += *(volatile uint64_t *)&worker_state[worker].writes;
    return sum;
}

void pool_fill(void)
{
    for (uint64_t page = 0; page < filled; page++) {
        uint64_t *word = pages + page * WORDS, *end = word + WORDS;
        uint64_t x = content_of(page);
        word[0] = head_of(page);
        word[1] = 0;
        generations[page] = 0;
        for (word += HEAD; word < end; word += 2) {
            word[0] = x = next(x);
            word[1] = x = next(x);
        }
    }
}

/* One of `count` numbers. */
static uint64_t random_of(unsigned worker, uint64_t count)
{
    uint64_t state = worker_state[worker].random_state = next(worker_state[worker].random_state);
    return (state >> 32) * count >> 32;
}

void pool_write_random(unsigned worker)
{
    uint64_t mine = filled / workers + (worker < filled % workers);
    if (mine == 0)
        return;
    uint64_t page = random_of(worker, mine) * workers + worker;
    volatile uint64_t *word = pages + page * WORDS;
    word[1] = word[1] + 1;
    generations[page]++;
    worker_state[worker].writes++;
}

void pool_damage(void)
{
    if (filled == 0)
        return;
    volatile uint8_t *byte = (volatile uint8_t *)(pages + random_of(0, filled) * WORDS);
    byte[worker_state[0].random_state % PAGE] ^= 0x40;
}

static bool filled_page_good(uint64_t page)
{
    const uint64_t *word = pages + page * WORDS, *end = word + WORDS;
    uint64_t x = content_of(page);
    uint64_t wrong = (word[0] ^ head_of(page)) | (word[1] ^ generations[page]);
    for (word += HEAD; word < end; word += 2) {
        x = next(x);
        wrong |= word[0] ^ x;
        x = next(x);
        wrong |= word[1] ^ x;
    }
    return wrong == 0;
}

static bool untouched_page_good(uint64_t page)
{
    const uint64_t *word = pages + page * WORDS, *end = word + WORDS;
    uint64_t any = 0;
    for (; word < end; word += 4)
        any |= word[0] | word[1] | word[2] | word[3];
    return any == 0;
}

void pool_verify(struct verdict *out)
{
    uint64_t sum = 0;
    out->bad = 0;
    out->first_bad = 0;
    for (uint64_t page = 0; page < page_count; page++) {
        bool good = page < filled ? filled_page_good(page) : untouched_page_good(page);
        if (page < filled)
            sum += generations[page];
        if (!good && out->bad++ == 0)
            out->first_bad = page;
    }
    out->checked = page_count;
    out->ok = out->bad == 0 && sum == pool_writes();
}
