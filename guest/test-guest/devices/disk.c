/* Virtio's disk (virtio 1.2, 5.2): writes and reads sectors, several requests at a time.

   A sector's content follows from the seed, its number and its generation, which a write makes one more of. The
   generations are in a table in the guest's memory: a sector that is old, exchanged, torn or has lost a write does
   not agree with it. Requests are made in bursts, and the next burst waits for all of the one before: an interrupt
   that is lost is not made up for by the next, but keeps a request from ever being done. */
#include "devices.h"

#define SECTOR 512u
#define WORDS (SECTOR / 8)
#define TABLE 65536u   /* sectors that are used at most */
#define BUFFER 32u     /* sectors of a request at most */
#define ORDINARY 8u    /* of one that does not check everything */
#define BURST_US 2000
#define FLUSH_EACH 64u /* bursts */
#define RESTED_US 1000

#define FEATURE_FLUSH (1ul << 9)
enum { DISK_READ = 0, DISK_WRITE = 1, DISK_FLUSH = 4 };
#define STATUS_OK 0u
#define STATUS_NONE 0xffu

/* In the table, beside a generation: found altered, and counted. */
#define ALTERED 0x80000000u

static struct virtio device;
static struct request {
    struct wait wait;
    uint32_t kind, sectors;
    uint64_t first;
    bool unrecorded;
} requests[SLOTS];
/* What the device reads and writes. */
static uint64_t buffers[SLOTS][BUFFER * WORDS] __attribute__((aligned(4096))) UNCLEARED;
static struct {
    uint32_t kind, reserved;
    uint64_t first;
} headers[SLOTS];
static volatile uint8_t statuses[SLOTS];

static uint32_t generations[TABLE] UNCLEARED;
static uint64_t sectors, seed, random_state, done, bad, lost, last_look, next_burst, bursts;
/* One that was altered on purpose is not written again until that was found. */
#define NO_SECTOR TABLE
static uint64_t damaged = NO_SECTOR;

/* The finalizer of SplitMix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ul;
    x = (x ^ x >> 27) * 0x94d049bb133111ebul;
    return x ^ x >> 31;
}

/* Marsaglia's xorshift64 (13, 7, 17). */
static uint64_t next(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    return x ^ x << 17;
}

static uint64_t random_of(uint64_t count)
{
    random_state = next(random_state);
    return (random_state >> 32) * count >> 32;
}

static uint64_t content_of(uint64_t sector, uint32_t generation)
{
    return mix(mix(seed + sector * 0x9e3779b97f4a7c15ul) + generation) | 1;
}

static void fill(uint64_t *to, uint64_t sector, uint32_t generation)
{
    uint64_t x = content_of(sector, generation);
    for (unsigned i = 0; i < WORDS; i++)
        to[i] = x = next(x);
}

static bool is_content(const uint64_t *from, uint64_t sector, uint32_t generation)
{
    uint64_t x = content_of(sector, generation), wrong = 0;
    for (unsigned i = 0; i < WORDS; i++) {
        x = next(x);
        wrong |= from[i] ^ x;
    }
    return wrong == 0;
}

const char *disk_open(uint64_t address, unsigned line, uint64_t with_seed)
{
    const char *wrong = virtio_open(&device, VIRTIO_DISK, address, line, FEATURE_FLUSH);
    if (wrong)
        return wrong;
    uint64_t capacity = virtio_capacity(&device);
    if (capacity < BUFFER)
        return "is too small";
    sectors = capacity < TABLE ? capacity : TABLE;
    for (uint64_t sector = 0; sector < sectors; sector++)
        generations[sector] = 0;
    seed = mix(with_seed ^ 0xbb67ae8584caa73bul);
    random_state = seed | 1;
    last_look = next_burst = clock_ticks();
    return 0;
}

/* Requests that are under way and not lost. */
static unsigned under_way(void)
{
    unsigned count = 0;
    for (unsigned slot = 0; slot < device.slots; slot++)
        count += requests[slot].wait.busy && !requests[slot].wait.lost;
    return count;
}

/* A slot that is free, or -1. */
static int free_slot(void)
{
    for (unsigned slot = 0; slot < device.slots; slot++)
        if (!requests[slot].wait.busy)
            return (int)slot;
    return -1;
}

/* Two requests for the same sector may be served in any order, or as one. */
static bool is_free(uint64_t first, uint64_t count)
{
    for (unsigned slot = 0; slot < device.slots; slot++) {
        const struct request *other = &requests[slot];
        if (other->wait.busy && first < other->first + other->sectors && other->first < first + count)
            return false;
    }
    return true;
}

static void check_content(const struct request *request, const uint64_t *content)
{
    for (uint64_t i = 0; i < request->sectors; i++) {
        uint64_t sector = request->first + i;
        uint32_t generation = generations[sector];
        if (generation == 0 || (generation & ALTERED) || is_content(content + i * WORDS, sector, generation))
            continue;
        generations[sector] |= ALTERED;
        bad++;
        if (sector == damaged)
            damaged = NO_SECTOR;
    }
}

static void finish(unsigned slot)
{
    struct request *request = &requests[slot];
    done++;
    request->wait = (struct wait){0};
    if (statuses[slot] != STATUS_OK)
        bad++;
    else if (request->kind == DISK_READ)
        check_content(request, buffers[slot]);
    else if (request->kind == DISK_WRITE && !request->unrecorded)
        for (uint64_t i = 0; i < request->sectors; i++)
            generations[request->first + i] = (generations[request->first + i] & ~ALTERED) + 1;
}

/* Takes what is done, if the device has said so. */
static void collect(void)
{
    uint64_t passed = wait_passed(&last_look);
    bool late = false;
    for (unsigned slot = 0; slot < device.slots; slot++) {
        bool now = wait_on(&requests[slot].wait, passed);
        lost += now;
        late |= now;
    }
    if (!virtio_rung(&device) && !late)
        return;
    uint32_t bytes;
    for (int slot; (slot = virtio_take(&device, &bytes)) >= 0;)
        if ((unsigned)slot < device.slots && requests[slot].wait.busy)
            finish((unsigned)slot);
        else
            bad++; /* done twice, or never asked for */
}

/* Waits until nothing is under way. */
static void settle(void)
{
    for (collect(); under_way() != 0; collect())
        clock_sleep_until(clock_ticks() + clock_ticks_of_us(RESTED_US));
}

/* Makes a request of a free slot whose buffer is filled; the device is not told yet. */
static void submit(unsigned slot, uint32_t kind, uint64_t first, uint32_t count)
{
    bool to_memory = kind == DISK_READ;
    struct part parts[SLOT_PARTS];
    unsigned used = 0;
    headers[slot].kind = kind;
    headers[slot].reserved = 0;
    headers[slot].first = kind == DISK_FLUSH ? 0 : first;
    statuses[slot] = STATUS_NONE;
    parts[used++] = (struct part){&headers[slot], sizeof headers[slot], false};
    /* In two parts of different size where there are sectors for that. */
    uint32_t here = count > 1 ? count / 3 + 1 : count;
    if (here != 0)
        parts[used++] = (struct part){buffers[slot], here * SECTOR, to_memory};
    if (here != count)
        parts[used++] = (struct part){buffers[slot] + here * WORDS, (count - here) * SECTOR, to_memory};
    parts[used++] = (struct part){(void *)&statuses[slot], 1, true};
    requests[slot] = (struct request){.wait.busy = true, .kind = kind, .sectors = count, .first = first};
    virtio_put(&device, slot, parts, used);
}

static void submit_any(void)
{
    int slot = free_slot();
    uint64_t count = 1 + random_of(ORDINARY), first = random_of(sectors - count + 1);
    bool write = random_of(2) != 0;
    if (slot < 0 || !is_free(first, count) || (write && damaged - first < count))
        return;
    for (uint64_t i = 0; write && i < count; i++)
        fill(buffers[slot] + i * WORDS, first + i, (generations[first + i] & ~ALTERED) + 1);
    submit((unsigned)slot, write ? DISK_WRITE : DISK_READ, first, (uint32_t)count);
}

void disk_work(void)
{
    collect();
    if (under_way() != 0 || (int64_t)(clock_ticks() - next_burst) < 0)
        return;
    next_burst = clock_ticks() + clock_ticks_of_us(BURST_US);
    for (uint64_t count = 1 + device.slots / 2 + random_of(device.slots / 2); count != 0; count--)
        submit_any();
    int slot = free_slot();
    if (++bursts % FLUSH_EACH == 0 && (device.features & FEATURE_FLUSH) && slot >= 0)
        submit((unsigned)slot, DISK_FLUSH, 0, 0);
    virtio_notify(&device);
}

static bool any_written(uint64_t first, uint64_t count)
{
    for (uint64_t sector = first; sector < first + count; sector++)
        if (generations[sector] != 0)
            return true;
    return false;
}

/* Reads all that was written. What a lost request is about is anyone's guess; with more of them it would take for
   ever. */
static void read_back(void)
{
    uint64_t lost_before = lost;
    for (uint64_t first = 0, count; first < sectors; first += count) {
        count = sectors - first < BUFFER ? sectors - first : BUFFER;
        if (!any_written(first, count) || !is_free(first, count))
            continue;
        if (free_slot() < 0) {
            virtio_notify(&device);
            settle();
        }
        int slot = free_slot();
        if (slot < 0 || lost != lost_before)
            return;
        submit((unsigned)slot, DISK_READ, first, (uint32_t)count);
    }
    virtio_notify(&device);
    settle();
}

bool disk_good(void)
{
    settle();
    read_back();
    if (!virtio_intact(&device))
        bad++;
    return bad == 0 && lost == 0;
}

/* Alters a bit of a sector that was written. */
void disk_damage(void)
{
    settle();
    int slot = free_slot();
    uint64_t from = random_of(sectors);
    for (uint64_t i = 0; i < sectors && slot >= 0; i++) {
        uint64_t sector = (from + i) % sectors;
        if (generations[sector] == 0 || (generations[sector] & ALTERED) || !is_free(sector, 1))
            continue;
        fill(buffers[slot], sector, generations[sector]);
        buffers[slot][random_of(WORDS)] ^= 1ul << random_of(64);
        submit((unsigned)slot, DISK_WRITE, sector, 1);
        requests[slot].unrecorded = true;
        damaged = sector;
        virtio_notify(&device);
        settle();
        return;
    }
}

void disk_fields(void)
{
    line_text(" disk_requests=");
    line_number(done);
    line_text(" disk_bad=");
    line_number(bad);
    line_text(" disk_lost=");
    line_number(lost);
}
