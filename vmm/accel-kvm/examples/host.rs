//! Prints what KVM of this host can do.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    let began = std::time::Instant::now();
    match accel_kvm::Host::open() {
        Ok(host) => println!("{:#?}\nfound out in {:?}", host.capabilities(), began.elapsed()),
        Err(error) => println!("{error}"),
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {}
