/* Virtio over MMIO, version 2, with one split queue and interrupts for every request that is done. */
#include "devices.h"

/* Registers, in words (4.2.2). */
enum {
    MAGIC = 0x00 / 4,
    VERSION = 0x04 / 4,
    DEVICE_ID = 0x08 / 4,
    DEVICE_FEATURES = 0x10 / 4,
    DEVICE_FEATURES_SELECT = 0x14 / 4,
    DRIVER_FEATURES = 0x20 / 4,
    DRIVER_FEATURES_SELECT = 0x24 / 4,
    QUEUE_SELECT = 0x30 / 4,
    QUEUE_SIZE_MAX = 0x34 / 4,
    QUEUE_SIZE = 0x38 / 4,
    QUEUE_READY = 0x44 / 4,
    QUEUE_NOTIFY = 0x50 / 4,
    INTERRUPT_STATUS = 0x60 / 4,
    INTERRUPT_ACK = 0x64 / 4,
    STATUS = 0x70 / 4,
    QUEUE_DESCRIPTORS = 0x80 / 4,
    QUEUE_AVAILABLE = 0x90 / 4,
    QUEUE_USED = 0xa0 / 4,
    CONFIG = 0x100 / 4,
};
#define MAGIC_VALUE 0x74726976u
#define MODERN 2u
#define ACKNOWLEDGE 1u
#define DRIVER 2u
#define DRIVER_OK 4u
#define FEATURES_OK 8u
#define ALL_SET (ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK)
#define FEATURE_VERSION_1 (1ul << 32)
#define INTERRUPT_USED 1u
#define DESCRIPTOR_NEXT 1u
#define DESCRIPTOR_WRITE 2u
#define RESET_US 1000000

static uint64_t offered(const struct virtio *device)
{
    device->window[DEVICE_FEATURES_SELECT] = 1;
    uint64_t high = device->window[DEVICE_FEATURES];
    device->window[DEVICE_FEATURES_SELECT] = 0;
    return high << 32 | device->window[DEVICE_FEATURES];
}

static void accept(const struct virtio *device, uint64_t features)
{
    for (unsigned half = 0; half < 2; half++) {
        device->window[DRIVER_FEATURES_SELECT] = half;
        device->window[DRIVER_FEATURES] = (uint32_t)(features >> 32 * half);
    }
}

static void give_address(const struct virtio *device, unsigned reg, const volatile void *at)
{
    device->window[reg] = (uint32_t)(uintptr_t)at;
    device->window[reg + 1] = (uint32_t)((uint64_t)(uintptr_t)at >> 32);
}

static bool reset(const struct virtio *device)
{
    uint64_t until = clock_ticks() + clock_ticks_of_us(RESET_US);
    device->window[STATUS] = 0;
    while (device->window[STATUS] != 0)
        if ((int64_t)(until - clock_ticks()) < 0)
            return false;
    return true;
}

static const char *agree(struct virtio *device, uint64_t wanted)
{
    uint64_t features = offered(device);
    if (!(features & FEATURE_VERSION_1))
        return "is not one of virtio 1";
    device->features = features & wanted;
    accept(device, device->features | FEATURE_VERSION_1);
    device->window[STATUS] = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    return device->window[STATUS] & FEATURES_OK ? 0 : "takes no features";
}

static const char *open_queue(struct virtio *device)
{
    device->window[QUEUE_SELECT] = 0;
    uint32_t most = device->window[QUEUE_SIZE_MAX];
    if (most < SLOT_PARTS || device->window[QUEUE_READY] != 0)
        return "has no queue to give";
    device->size = most < QUEUE ? most : QUEUE;
    device->slots = device->size / SLOT_PARTS;
    device->available.flags = device->available.index = 0;
    device->used.flags = device->used.index = device->used_seen = 0;
    device->window[QUEUE_SIZE] = device->size;
    give_address(device, QUEUE_DESCRIPTORS, device->descriptors);
    give_address(device, QUEUE_AVAILABLE, &device->available);
    give_address(device, QUEUE_USED, &device->used);
    device->window[QUEUE_READY] = 1;
    return 0;
}

const char *virtio_open(struct virtio *device, uint32_t kind, uint64_t address, unsigned line, uint64_t wanted)
{
    device->window = (volatile uint32_t *)(uintptr_t)address;
    device->kind = kind;
    device->interrupts = device->interrupts_seen = 0;
    if (device->window[MAGIC] != MAGIC_VALUE || device->window[VERSION] != MODERN)
        return "is no virtio-mmio device of version 2";
    if (device->window[DEVICE_ID] != kind)
        return "is a device of another kind";
    if (!reset(device))
        return "does not reset";
    device->window[STATUS] = ACKNOWLEDGE;
    device->window[STATUS] = ACKNOWLEDGE | DRIVER;
    const char *wrong = agree(device, wanted);
    if (!wrong)
        wrong = open_queue(device);
    if (wrong)
        return wrong;
    if (!line_open(line, device))
        return "has an interrupt that the machine has not";
    device->window[STATUS] = ALL_SET;
    return 0;
}

bool virtio_intact(const struct virtio *device)
{
    return device->window[MAGIC] == MAGIC_VALUE && device->window[DEVICE_ID] == device->kind &&
           device->window[STATUS] == ALL_SET && device->window[QUEUE_READY] == 1;
}

uint64_t virtio_capacity(const struct virtio *device)
{
    return (uint64_t)device->window[CONFIG + 1] << 32 | device->window[CONFIG];
}

void virtio_put(struct virtio *device, unsigned slot, const struct part *parts, unsigned count)
{
    unsigned first = slot * SLOT_PARTS;
    for (unsigned i = 0; i < count; i++) {
        struct descriptor *to = &device->descriptors[first + i];
        to->address = (uint64_t)(uintptr_t)parts[i].at;
        to->bytes = parts[i].bytes;
        to->flags = (parts[i].device_writes ? DESCRIPTOR_WRITE : 0) | (i + 1 < count ? DESCRIPTOR_NEXT : 0);
        to->next = (uint16_t)(first + i + 1);
    }
    device->available.ring[device->available.index % device->size] = (uint16_t)first;
    /* The device sees the index no earlier than what is behind it. */
    __atomic_store_n(&device->available.index, (uint16_t)(device->available.index + 1), __ATOMIC_RELEASE);
}

void virtio_notify(const struct virtio *device)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    device->window[QUEUE_NOTIFY] = 0;
}

bool virtio_rung(struct virtio *device)
{
    uint64_t come = *(volatile uint64_t *)&device->interrupts;
    bool any = come != device->interrupts_seen;
    device->interrupts_seen = come;
    return any;
}

int virtio_take(struct virtio *device, uint32_t *bytes)
{
    if (__atomic_load_n(&device->used.index, __ATOMIC_ACQUIRE) == device->used_seen)
        return -1;
    unsigned at = device->used_seen++ % device->size;
    *bytes = device->used.ring[at].bytes;
    return (int)(device->used.ring[at].slot / SLOT_PARTS);
}

void virtio_interrupt(struct virtio *device)
{
    uint32_t status = device->window[INTERRUPT_STATUS];
    device->window[INTERRUPT_ACK] = status;
    if (status & INTERRUPT_USED)
        device->interrupts++;
}
