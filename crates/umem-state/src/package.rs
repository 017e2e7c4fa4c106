//! stub
/// stub
pub struct Package;
/// stub
pub struct PackageBuilder;
/// stub
pub struct Section;
