//! The migrations are part of the binary: a new file must make a new build.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
