//! AWS Signature Version 4 for requests without a body (pure).

#![cfg_attr(not(feature = "aws"), allow(dead_code, reason = "tested in every build, used with the feature"))]

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// What signs requests. Its `Debug` form does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Names the key.
    pub(super) access_key: String,
    /// The key.
    pub(super) secret_key: String,
    /// Goes with keys that expire.
    pub(super) session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A GET request to be signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get<'a> {
    /// Whom it goes to.
    pub(super) host: &'a str,
    /// Its query, each name once.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Further headers, names in lower case.
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// `us-east-1` …
    pub(super) region: &'a str,
    /// `ec2` …
    pub(super) service: &'a str,
    /// `20150830T123600Z`.
    pub(super) time: &'a str,
}

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

impl Get<'_> {
    /// The query as it goes into the address.
    pub(super) fn canonical_query(&self) -> String {
        let mut pairs: Vec<String> =
            self.query.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        pairs.sort();
        pairs.join("&")
    }

    /// The headers to send: `host` is the client's to send, all others are here.
    pub(super) fn signed_headers(&self, credentials: &Credentials) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> =
            self.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        headers.push(("host".to_owned(), self.host.to_owned()));
        headers.push(("x-amz-date".to_owned(), self.time.to_owned()));
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token".to_owned(), token.clone()));
        }
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let request = format!("GET\n/\n{}\n{lines}\n{names}\n{}", self.canonical_query(), hex(&Sha256::digest(b"")));
        let day = self.time.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.time, hex(&Sha256::digest(request.as_bytes())));
        let key = [day, self.region, self.service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", credentials.secret_key).into_bytes(), |key, part| {
                hmac(&key, part.as_bytes()).to_vec()
            });
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let access_key = &credentials.access_key;
        headers.retain(|(name, _)| name != "host");
        headers.push((
            "authorization".to_owned(),
            format!("AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"),
        ));
        headers
    }
}

/// HMAC (RFC 2104) with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; BLOCK];
    let hashed = Sha256::digest(key);
    let key = if key.len() > BLOCK { hashed.as_slice() } else { key };
    for (slot, byte) in block.iter_mut().zip(key) {
        *slot = *byte;
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encoding of everything but the unreserved characters (RFC 3986).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_gives_what_rfc_4231_says() {
        let test_2 = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex(&test_2), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let test_6 = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&test_6), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn signs_the_documented_example() {
        let credentials = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        };
        let get = Get {
            host: "iam.amazonaws.com",
            query: &[("Version", "2010-05-08"), ("Action", "ListUsers")],
            headers: &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            region: "us-east-1",
            service: "iam",
            time: "20150830T123600Z",
        };
        let headers = get.signed_headers(&credentials);
        let (_, authorization) = headers.iter().find(|(name, _)| name == "authorization").unwrap();
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        assert_eq!(get.canonical_query(), "Action=ListUsers&Version=2010-05-08");
        assert_eq!(format!("{credentials:?}"), "<redacted>");
    }
}
