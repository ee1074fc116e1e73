//! Messages that other implementations sent, kept in `tests/vectors/`: they are read as what they were meant to say, and
//! what we sent then is what we would send now.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ferrovia::net::Family;
use ferrovia::routing::bgp::types::Nlri;
use ferrovia::routing::bgp::wire;

#[path = "../vectors/check.rs"]
mod check;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// The messages of a file: one a line in hexadecimal digits, `#` begins a remark.
fn messages(path: &Path) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    lines.map(|line| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect()).collect()
}

#[test]
fn messages_of_others_are_read_as_they_were_meant() {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".hex") && !name.starts_with("ferrovia") {
            check::check(&messages(&path)).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            names.push(name);
        }
    }
    names.sort();
    assert_eq!(names, ["bird-1.6.hex", "bird-2.hex", "frr.hex", "gobgp-3.hex", "gobgp-4.hex"]);
}

/// The others took these bytes from us; whatever changes here must be taken by them again.
#[test]
fn we_write_what_others_took() {
    let recorded = messages(&folder().join("ferrovia.hex"));
    let session = check::session(true);
    let attributes = check::rich(64601, IpAddr::from([10, 77, 0, 1]), [0xfc59_0001, 0xfc59_ffff]);
    let mut bytes = Vec::new();
    let nlri = [Nlri::new("192.0.2.0/24".parse().unwrap())];
    wire::encode_reach(&attributes, Family::V4, &nlri, &session, &mut bytes).unwrap();
    assert!(recorded.contains(&bytes), "{} is not among the recorded messages", check::hex(&bytes));
}
