//! A cpio archive in the `newc` form the kernel unpacks as its first root (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`). Uncompressed: an emulated CPU would
//! spend longer on unpacking than is saved on reading.

/// Directory and regular file bits of `st_mode`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Collects entries; [`Archive::finish`] gives the bytes.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Header of thirteen eight-digit hexadecimal fields after the magic, name with a final zero byte,
    /// content; name and content padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links, size, name) = (self.entries, 1, content.len(), path.len() + 1);
        let header = format!(
            "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{links:08X}{0:08X}{size:08X}{0:08X}{0:08X}{0:08X}{0:08X}{name:08X}{0:08X}",
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_headed_named_and_padded() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("init", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        // 110 bytes of header and "bin\0" make 114, padded to 116.
        assert!(text.starts_with("07070100000001000041ED"), "{text:?}");
        assert_eq!(&bytes[110..116], b"bin\0\0\0");
        assert!(text[116..].starts_with("07070100000002000081ED"), "{text:?}");
        // The second header ends at 226, "init\0" at 231, padded to 232.
        assert_eq!(&bytes[232..240], b"hello\0\0\0");
        assert!(bytes.len().is_multiple_of(4));
        assert!(text.contains("TRAILER!!!"));
    }
}
