/* The devices that the boot arguments name, `disk=` and `rng=`: nothing is done about one that is not named. */
#include "devices.h"
#include "shared.h"

static bool disk, rng;

static const char *complaint(const char *name, uint64_t address, const char *why)
{
    line_text("umem-guest ");
    line_text(name);
    line_text(" at ");
    line_hex(address);
    line_text(" ");
    return why;
}

const char *devices_open(const char *arguments, uint64_t seed)
{
    uint64_t address;
    unsigned line;
    const char *wrong = 0;
    disk = argument_place(arguments, "disk", &address, &line);
    if (disk && (wrong = disk_open(address, line, seed)) != 0)
        return complaint("disk", address, wrong);
    rng = argument_place(arguments, "rng", &address, &line);
    if (rng && (wrong = rng_open(address, line)) != 0)
        return complaint("rng", address, wrong);
    return 0;
}

void devices_work(void)
{
    if (disk)
        disk_work();
    if (rng)
        rng_work();
}

bool devices_good(void)
{
    bool good = !disk || disk_good();
    return (!rng || rng_good()) && good;
}

void devices_damage(void)
{
    if (disk)
        disk_damage();
}

void devices_fields(void)
{
    if (disk)
        disk_fields();
    if (rng)
        rng_fields();
}
