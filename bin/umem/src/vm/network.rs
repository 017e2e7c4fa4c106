//! Network devices and their taps: `-netdev` and `-device virtio-net-device`.

use super::parse::Draft;
use super::values::parts;
use machine::{NetworkConfig, TapSource};

/// Name of the device.
pub(super) const DEVICE: &str = "virtio-net-device";

/// A network device as its option says it.
#[derive(Debug)]
pub(super) struct NetworkDevice {
    /// Name of its tap.
    netdev: String,
    mac: Option<[u8; 6]>,
}

pub(super) fn netdev(draft: &mut Draft, text: &str) -> Result<(), String> {
    let (mut id, mut tap) = (None, None);
    for (place, part) in parts(text).iter().enumerate() {
        let source = match part.split_once('=').unwrap_or((part, "")) {
            ("tap", "") if place == 0 => continue,
            (kind, _) if place == 0 => return Err(format!("'{kind}' is not known; use tap")),
            ("id", name) if !name.is_empty() => {
                id = Some(name.to_owned());
                continue;
            }
            // Scripts are never run.
            ("script" | "downscript", "no") => continue,
            ("ifname", name) if !name.is_empty() => TapSource::Name(name.to_owned()),
            ("fd", number) => {
                let number = number.parse().ok().filter(|&number: &i32| number >= 0);
                let wrong = || format!("'{part}' has no number of a descriptor");
                TapSource::Descriptor(number.ok_or_else(wrong)?)
            }
            _ => return Err(format!("'{part}' is not known; use tap,id=ID,ifname=NAME|fd=N")),
        };
        if tap.replace(source).is_some() {
            return Err("there are two taps: give one of ifname=NAME and fd=N".to_owned());
        }
    }
    let id = id.ok_or("id=ID is missing")?;
    let tap = tap.ok_or("ifname=NAME or fd=N is missing")?;
    if draft.netdevs.iter().any(|(other, _)| *other == id) {
        return Err(format!("there are two '{id}'"));
    }
    draft.netdevs.push((id, tap));
    Ok(())
}

/// `virtio-net-device,netdev=ID[,mac=MAC]`.
pub(super) fn device(draft: &mut Draft, text: &str) -> Result<(), String> {
    let mut device = NetworkDevice { netdev: String::new(), mac: None };
    for part in parts(text).iter().skip(1) {
        match part.split_once('=') {
            Some(("netdev", id)) => device.netdev = id.to_owned(),
            Some(("mac", mac)) => device.mac = Some(self::mac(mac)?),
            _ => return Err(format!("'{part}' is not known; use {DEVICE},netdev=ID[,mac=MAC]")),
        }
    }
    if device.netdev.is_empty() {
        return Err("netdev=ID is missing".to_owned());
    }
    draft.network_devices.push(device);
    Ok(())
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |part: &str| {
        let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    let address = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    // The lowest bit of the first byte is of groups.
    address.filter(|[first, ..]| first & 1 == 0).ok_or_else(|| {
        format!("'{text}' is no hardware address of one device; use one as 52:54:00:12:34:56")
    })
}

/// Finds each device's tap, in the order of the devices; every tap has one device.
pub(super) fn join(draft: &Draft) -> Result<Vec<NetworkConfig>, String> {
    let mut networks: Vec<NetworkConfig> = Vec::new();
    for (last, device) in (0x56u8..=u8::MAX).zip(&draft.network_devices) {
        let found = draft.netdevs.iter().find(|(id, _)| *id == device.netdev);
        let (id, tap) = found.ok_or_else(|| {
            format!("-device {DEVICE}: there is no -netdev tap,id={},...", device.netdev)
        })?;
        if networks.iter().any(|other| other.id == *id) {
            return Err(format!("-device {DEVICE}: '{id}' has a device already"));
        }
        let mac = device.mac.unwrap_or([0x52, 0x54, 0, 0x12, 0x34, last]);
        networks.push(NetworkConfig { id: id.clone(), tap: tap.clone(), mac });
    }
    if let Some((id, _)) =
        draft.netdevs.iter().find(|(id, _)| networks.iter().all(|other| other.id != *id))
    {
        return Err(format!("-netdev '{id}' has no device; give -device {DEVICE},netdev={id}"));
    }
    Ok(networks)
}
