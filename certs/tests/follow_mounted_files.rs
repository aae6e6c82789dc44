//! Files that somebody else keeps are followed as a kubelet changes them, and never written.

use std::{fs, os::unix::fs::symlink, path::Path};

use jiff::Timestamp;
use powercap_certs::{
    Identity, Periods,
    authority::{Authority, Leaf},
    certificate::Certificate,
    files::{Files, FilesError},
    inspect,
};

const NAME: &str = "powercap-admission.powercap-system.svc";

#[tokio::test]
async fn the_next_certificate_is_shown_once_the_link_points_to_it() {
    let folder = mounted();
    let (authority, now) = authority();
    let (first, second) = (leaf(&authority, now), leaf(&authority, now));
    mount(folder.path(), "..1", &first);
    let mut files = Files::new(folder.path().to_owned());
    let shown = files.look().await.unwrap();
    assert_eq!(shown.leaf(), first.certificate());
    assert_eq!(shown.expires(), first.certificate().not_after());
    assert!(std::sync::Arc::ptr_eq(&shown, &files.look().await.unwrap()), "what did not change is not read anew");
    mount(folder.path(), "..2", &second);
    assert_eq!(files.look().await.unwrap().leaf(), second.certificate());
}

#[tokio::test]
async fn a_certificate_and_a_key_that_do_not_go_together_are_not_shown() {
    let folder = mounted();
    let (authority, now) = authority();
    let (first, second) = (leaf(&authority, now), leaf(&authority, now));
    mount(folder.path(), "..1", &first);
    fs::write(folder.path().join("..1/tls.crt"), second.certificate().pem()).unwrap();
    let mut files = Files::new(folder.path().to_owned());
    assert!(matches!(files.look().await, Err(FilesError::Understand { .. })));
    fs::write(folder.path().join("..1/tls.key"), second.key().pem()).unwrap();
    assert_eq!(files.look().await.unwrap().leaf(), second.certificate(), "a moment later they do");
}

#[tokio::test]
async fn missing_empty_and_truncated_files_say_so() {
    let folder = mounted();
    let mut files = Files::new(folder.path().to_owned());
    assert!(matches!(files.look().await, Err(FilesError::Read { .. })));
    let (authority, now) = authority();
    let sound = leaf(&authority, now);
    mount(folder.path(), "..1", &sound);
    for text in ["", &sound.certificate().pem()[..300]] {
        fs::write(folder.path().join("..1/tls.crt"), text).unwrap();
        assert!(matches!(files.look().await, Err(FilesError::Understand { .. })), "{text:?}");
    }
}

#[test]
fn a_person_is_told_who_accepts_it() {
    let (authority, now) = authority();
    let sound = leaf(&authority, now);
    let identity = Identity::from_pem(&sound.certificate().pem(), sound.key().pem()).unwrap();
    let page = inspect::files(&identity, &[authority.certificate().clone()], now).unwrap();
    assert!(page.accepted, "{}", page.text);
    assert!(page.text.contains(&format!("accepted by who trusts ca.crt and calls it {NAME}")), "{}", page.text);
    let (other, _) = self::authority();
    let page = inspect::files(&identity, &[other.certificate().clone()], now).unwrap();
    assert!(!page.accepted, "{}", page.text);
    let nothing: [Certificate; 0] = [];
    let expired =
        inspect::files(&identity, &nothing, sound.certificate().not_after() + Periods::default().skew).unwrap();
    assert!(!expired.accepted && expired.text.contains("EXPIRED"), "{}", expired.text);
}

fn mounted() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// As a kubelet writes a Secret: into a folder of its own, then one link is put in the place of another.
fn mount(folder: &Path, name: &str, leaf: &Leaf) {
    fs::create_dir(folder.join(name)).unwrap();
    fs::write(folder.join(name).join("tls.crt"), leaf.certificate().pem()).unwrap();
    fs::write(folder.join(name).join("tls.key"), leaf.key().pem()).unwrap();
    symlink(name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        // Already there from the second time on.
        let _linked = symlink(Path::new("..data").join(file), folder.join(file));
    }
}

fn authority() -> (Authority, Timestamp) {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    (Authority::make(now, &Periods::default()).unwrap(), now)
}

fn leaf(authority: &Authority, now: Timestamp) -> Leaf {
    authority.sign(&[NAME.to_owned()], now, &Periods::default()).unwrap()
}
