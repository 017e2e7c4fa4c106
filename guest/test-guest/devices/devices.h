/* Drivers for devices at virtio-mmio windows, and the work that shows whether they lose anything. Nothing here
   knows the architecture: the machine gives what the functions marked so need. */
#ifndef DEVICES_H
#define DEVICES_H
#include "guest.h"

/* Memory that is not cleared at the start. */
#define UNCLEARED __attribute__((section(".bss.unset")))

/* devices.c: the devices that the boot arguments name. */
/* Null, or why one of them cannot be used. */
const char *devices_open(const char *arguments, uint64_t seed);
/* Between the writes of worker 0, about each millisecond. */
void devices_work(void);
/* Waits for what is under way, and reads everything back. */
bool devices_good(void);
void devices_damage(void);
/* Their part of a verdict's line. */
void devices_fields(void);

/* virtio.c: one device with one queue. Virtio specification 1.2, chapters 2.7 (split virtqueues) and 4.2. */
#define QUEUE 32u
/* Descriptors are not handed out one by one: each slot has its own. */
#define SLOT_PARTS 4u
#define SLOTS (QUEUE / SLOT_PARTS)

struct descriptor {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags, next;
};
struct virtio {
    struct descriptor descriptors[QUEUE] __attribute__((aligned(16)));
    struct {
        uint16_t flags, index, ring[QUEUE];
    } available __attribute__((aligned(2)));
    struct {
        uint16_t flags, index;
        struct {
            uint32_t slot, bytes;
        } ring[QUEUE];
    } used __attribute__((aligned(4)));
    volatile uint32_t *window;
    uint32_t kind;
    uint64_t features; /* those of the ones wanted that it has */
    unsigned size, slots;
    uint16_t used_seen;
    uint64_t interrupts, interrupts_seen;
};
struct part {
    void *at;
    uint32_t bytes;
    bool device_writes;
};

#define VIRTIO_DISK 2u
#define VIRTIO_RNG 4u
/* Null, or why it cannot be used. The device stays in its window's memory: not to be moved. */
const char *virtio_open(struct virtio *device, uint32_t kind, uint64_t address, unsigned line, uint64_t wanted);
/* Whether its registers are as they were set. */
bool virtio_intact(const struct virtio *device);
uint64_t virtio_capacity(const struct virtio *device);
/* A request of at most SLOT_PARTS parts, and telling the device of all since the last time. */
void virtio_put(struct virtio *device, unsigned slot, const struct part *parts, unsigned count);
void virtio_notify(const struct virtio *device);
/* Whether an interrupt has come since the last call. */
bool virtio_rung(struct virtio *device);
/* The slot of a request that is done, or -1. */
int virtio_take(struct virtio *device, uint32_t *bytes);
/* What the machine calls when the device's interrupt comes. */
void virtio_interrupt(struct virtio *device);

/* The machine gives this: from now on the interrupt, which is level-triggered, ends in virtio_interrupt on the
   processor of worker 0. False where it has no such line. */
bool line_open(unsigned line, struct virtio *device);

/* wait.c: how long requests are under way by the time that the guest has run. */
struct wait {
    uint64_t waited;
    bool busy, lost;
};
/* The time since the last call with this, without what the guest stood still. */
uint64_t wait_passed(uint64_t *last);
/* Whether it becomes lost by now. */
bool wait_on(struct wait *wait, uint64_t passed);

/* disk.c */
const char *disk_open(uint64_t address, unsigned line, uint64_t seed);
void disk_work(void);
bool disk_good(void);
void disk_damage(void);
void disk_fields(void);

/* rng.c */
const char *rng_open(uint64_t address, unsigned line);
void rng_work(void);
bool rng_good(void);
void rng_fields(void);

#endif
