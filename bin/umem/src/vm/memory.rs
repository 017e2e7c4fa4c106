//! What RAM is made of: `-object memory-backend-…`, `-machine memory-backend=ID`, `-mem-path`.

use super::parse::Draft;
use super::values::{self, on_off, parts};
use machine::{Backend, PageSize};
use std::path::PathBuf;

/// An object as its option says it.
#[derive(Debug)]
pub(super) struct MemoryObject {
    id: String,
    bytes: Option<u64>,
    backend: Backend,
    prealloc: bool,
    overcommit: bool,
}

const KINDS: &str = "memory-backend-ram, memory-backend-memfd or memory-backend-file";

/// The properties while they are read.
#[derive(Default)]
struct Properties {
    id: Option<String>,
    bytes: Option<u64>,
    share: Option<bool>,
    huge: bool,
    page: Option<PageSize>,
    path: Option<PathBuf>,
    prealloc: bool,
    overcommit: bool,
}

/// `2M`, `1G`.
pub(crate) fn page_size(text: &str) -> Result<PageSize, String> {
    let sizes = [PageSize::HUGE_2M, PageSize::HUGE_1G];
    let bytes = values::memory(text)?;
    let found = sizes.into_iter().find(|page| page.bytes() == bytes);
    found.ok_or_else(|| format!("huge pages of '{text}' are not known; use 2M or 1G"))
}

pub(super) fn object(draft: &mut Draft, text: &str) -> Result<(), String> {
    let parts = parts(text);
    let (kind, rest) = parts.split_first().ok_or("it is empty")?;
    let kind = kind.strip_prefix("qom-type=").unwrap_or(kind);
    let mut given = Properties::default();
    for part in rest {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("'{part}' has no value"));
        };
        match name {
            "id" if !value.is_empty() => given.id = Some(value.to_owned()),
            "size" => given.bytes = Some(values::memory(value)?),
            "share" => given.share = Some(on_off(part, value)?),
            "prealloc" => given.prealloc = on_off(part, value)?,
            "reserve" => given.overcommit = !on_off(part, value)?,
            "hugetlb" if kind == "memory-backend-memfd" => given.huge = on_off(part, value)?,
            "hugetlbsize" if kind == "memory-backend-memfd" => {
                given.page = Some(page_size(value)?);
            }
            "mem-path" if kind == "memory-backend-file" => given.path = Some(value.into()),
            _ => return Err(format!("'{part}' is not known of {kind}")),
        }
    }
    let object = made(kind, given)?;
    if draft.objects.iter().any(|other| other.id == object.id) {
        return Err(format!("there are two '{}'", object.id));
    }
    draft.objects.push(object);
    Ok(())
}

fn made(kind: &str, given: Properties) -> Result<MemoryObject, String> {
    let Properties { id, bytes, share, huge, page, path, prealloc, overcommit } = given;
    let id = id.ok_or("id=ID is missing")?;
    let backend = match kind {
        "memory-backend-ram" if share == Some(true) => Backend::Memfd,
        "memory-backend-ram" => Backend::Anonymous,
        "memory-backend-memfd" if page.is_some() && !huge => {
            return Err("hugetlbsize goes only with hugetlb=on".to_owned());
        }
        "memory-backend-memfd" if huge => Backend::HugeMemfd(page.unwrap_or(PageSize::HUGE_2M)),
        "memory-backend-memfd" => Backend::Memfd,
        "memory-backend-file" => file(path.ok_or("mem-path=PATH is missing")?, share)?,
        _ => return Err(format!("there is no object '{kind}'; there is {KINDS}")),
    };
    if prealloc && overcommit {
        return Err(
            "prealloc=on takes all memory at the start, reserve=off what is used: leave one out"
                .to_owned(),
        );
    }
    Ok(MemoryObject { id, bytes, backend, prealloc, overcommit })
}

/// A folder gives a file without a name, which nobody else can see: shared or not is the same.
fn file(path: PathBuf, share: Option<bool>) -> Result<Backend, String> {
    if !path.is_dir() && share != Some(true) {
        return Err(format!(
            "the guest's memory would not be written to {}: say share=on, or name a folder",
            path.display()
        ));
    }
    Ok(Backend::File(path))
}

/// Finds the object that RAM is, and how large RAM is with it.
pub(super) fn join(draft: &mut Draft) -> Result<(), String> {
    let objects = std::mem::take(&mut draft.objects);
    let config = &mut draft.config;
    if let Some(path) = draft.mem_path.take() {
        if draft.memory_backend.is_some() {
            return Err("-mem-path and -machine memory-backend=ID both say what RAM is".into());
        }
        // As QEMU's: a named file is written to only there.
        config.memory_backend = Some(file(path, Some(true))?);
    }
    let wanted = draft.memory_backend.take();
    if let Some(unused) = objects.iter().find(|object| wanted.as_ref() != Some(&object.id)) {
        let id = &unused.id;
        return Err(format!("-object '{id}' is used by nobody; say -machine memory-backend={id}"));
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let object = objects.into_iter().find(|object| object.id == wanted).ok_or_else(|| {
        format!(
            "-machine memory-backend={wanted}: there is no -object memory-backend-...,id={wanted}"
        )
    })?;
    if let Some(bytes) = object.bytes {
        if draft.memory_given && config.memory_bytes != bytes {
            return Err(format!(
                "-m asks for {} bytes, and memory backend '{wanted}' has {bytes}; give one of them, or \
                 the same",
                config.memory_bytes
            ));
        }
        config.memory_bytes = bytes;
    }
    config.memory_backend = Some(object.backend);
    config.prealloc = object.prealloc;
    config.overcommit = object.overcommit;
    Ok(())
}
