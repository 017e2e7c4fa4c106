/* What the loader says: Xen's "x86/HVM direct boot ABI", start info version 1. */
#include "machine.h"

#define MAGIC 0x336ec578u
#define RAM 1u

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, arguments, rsdp, map;
    uint32_t map_entries, reserved;
};
struct map_entry {
    uint64_t start, bytes;
    uint32_t kind, reserved;
};

extern uint64_t start_info;
extern char image_end[];

static void take_arguments(const char *from, struct board *out)
{
    uint64_t length = 0;
    for (; from && from[length] && length + 1 < sizeof out->arguments; length++)
        out->arguments[length] = from[length];
    memory_forget((uint64_t)(uintptr_t)from, length);
}

bool board_read(struct board *out)
{
    const struct start_info *info = (const struct start_info *)(uintptr_t)start_info;
    if (start_info == 0 || info->magic != MAGIC || info->version < 1 || info->map_entries == 0)
        return false;
    const struct map_entry *map = (const struct map_entry *)(uintptr_t)info->map;
    uint64_t image = (uint64_t)(uintptr_t)image_end;
    for (uint32_t i = 0; i < info->map_entries; i++) {
        uint64_t start = map[i].start, end = start + map[i].bytes;
        if (map[i].kind != RAM)
            continue;
        out->ram_bytes += map[i].bytes;
        memory_add(start < image && image < end ? image : start, end);
    }
    out->processors = info->rsdp ? acpi_processors(info->rsdp) : 0;
    take_arguments((const char *)(uintptr_t)info->arguments, out);
    memory_forget(info->map, info->map_entries * sizeof *map);
    memory_forget(start_info, sizeof *info);
    return memory_end() > memory_start();
}
