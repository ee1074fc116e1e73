//! The file that remembers where the API servers are, for a start before the cluster address works.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::errors::Error;

#[derive(Serialize, Deserialize)]
struct Content {
    endpoints: Vec<SocketAddr>,
}

/// The remembered addresses; none where the file is not there or makes no sense.
pub(super) fn read(path: &Path) -> Vec<SocketAddr> {
    let Ok(text) = fs::read(path) else { return Vec::new() };
    match serde_json::from_slice::<Content>(&text) {
        Ok(content) => content.endpoints,
        Err(error) => {
            tracing::warn!(path = %path.display(), reason = %error, "remembered api server addresses cannot be read");
            Vec::new()
        }
    }
}

/// Replaces the file as a whole: a crash leaves the old or the new content, never half of one.
pub(super) fn write(path: &Path, endpoints: &[SocketAddr]) -> Result<(), Error> {
    let refused = |source: std::io::Error| Error::StateFile { path: path.to_owned(), source };
    let content = Content { endpoints: endpoints.to_vec() };
    let text = serde_json::to_vec(&content).map_err(|error| refused(error.into()))?;
    let new = path.with_extension("new");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(refused)?;
    }
    let mut file = fs::File::create(&new).map_err(refused)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(refused)?;
    fs::rename(&new, path).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_nonsense_reads_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/endpoints.json");
        assert!(read(&path).is_empty());
        let endpoints: Vec<SocketAddr> =
            ["192.0.2.1:6443".parse().unwrap(), "[2001:db8::1]:6443".parse().unwrap()].into();
        write(&path, &endpoints).unwrap();
        assert_eq!(read(&path), endpoints);
        write(&path, &endpoints[..1]).unwrap();
        assert_eq!(read(&path), endpoints[..1]);
        assert_eq!(fs::read_dir(folder.path().join("deeper")).unwrap().count(), 1, "nothing else is left behind");
        fs::write(&path, "{\"endpoints\": [5]}").unwrap();
        assert!(read(&path).is_empty());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = write(&folder.path().join("file/endpoints.json"), &[]).unwrap_err();
        assert!(error.to_string().contains("file/endpoints.json"), "{error}");
    }
}
