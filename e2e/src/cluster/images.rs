//! Container images without a container engine: a docker-archive tar with one layer, made of files of
//! the build host and, for dynamic programs, the libraries they name. The same files give the same
//! bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::files::{FileError, error, hex};

/// The user that images run as unless a pod says otherwise.
pub const NONROOT: u64 = 65532;

/// The image every pod's sandbox runs.
pub const PAUSE_IMAGE: &str = "docker.io/library/pause:dev";

/// Libraries that a program may open at run time without naming them.
const ALSO: [&str; 4] = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be made, read, moved or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A library is not to be found.
    #[error("{program} needs {library}, which ldd does not find on this machine")]
    Library {
        /// Who needs it.
        program: PathBuf,
        /// What.
        library: String,
    },
    /// A file was given in a wrong form.
    #[error("{0:?} is not HOST_PATH=/IMAGE_PATH")]
    Form(String),
    /// The C compiler failed.
    #[error("compile the pause program: {0}")]
    Compile(String),
}

/// An image that is to be made.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name with tag.
    pub name: String,
    /// What a container runs.
    pub entrypoint: Vec<String>,
    /// Files: path in the image, path on this host.
    pub files: BTreeMap<PathBuf, PathBuf>,
}

impl Image {
    /// An image without files.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            files: BTreeMap::new(),
        }
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Self {
        self.files.insert(image.into(), host.into());
        self
    }

    /// Adds a file given as `HOST_PATH=/IMAGE_PATH`.
    ///
    /// # Errors
    /// When it is not of this form.
    pub fn file_argument(self, argument: &str) -> Result<Self, Error> {
        match argument.split_once('=') {
            Some((host, image)) if image.starts_with('/') => Ok(self.file(host, image)),
            _ => Err(Error::Form(argument.to_owned())),
        }
    }

    /// Writes the archive, by way of a temporary file beside it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a library is missing.
    pub fn write(&self, archive: &Path) -> Result<(), Error> {
        let files = self.with_libraries()?;
        let folder = archive.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(error("create", folder))?;
        let mut layer = tempfile::tempfile_in(folder).map_err(error("create a file in", folder))?;
        let hash = write_layer(&files, &mut layer, archive)?;
        let finished = tempfile::NamedTempFile::new_in(folder).map_err(error("create a file in", folder))?;
        self.write_archive(&mut layer, &hash, finished.as_file()).map_err(error("write", archive))?;
        // Temporary files are their maker's alone, an archive is for everyone.
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        finished.as_file().set_permissions(everyone).map_err(error("open up", archive))?;
        finished.persist(archive).map_err(|refused| error("write", archive)(refused.error))?;
        Ok(())
    }

    /// The name as containerd keeps it.
    pub fn reference(&self) -> String {
        let registry = self.name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']));
        match (registry, self.name.contains('/')) {
            (true, _) => self.name.clone(),
            (false, true) => format!("docker.io/{}", self.name),
            (false, false) => format!("docker.io/library/{}", self.name),
        }
    }

    fn with_libraries(&self) -> Result<BTreeMap<PathBuf, PathBuf>, Error> {
        let mut files = self.files.clone();
        for host in self.files.values() {
            for library in libraries(host)? {
                files.entry(library.clone()).or_insert(library);
            }
        }
        // Whom TLS clients trust, as base images have it; a host without it makes images without it.
        let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
        if authorities.exists() {
            files.insert(authorities.into(), authorities.into());
        }
        Ok(files)
    }

    fn write_archive(&self, layer: &mut File, layer_hash: &str, out: &File) -> io::Result<()> {
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": NONROOT.to_string(),
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_hash}")]},
            "history": [{"created_by": "kube-powercap"}],
        })
        .to_string();
        let config_hash = hex(digest::digest(&digest::SHA256, config.as_bytes()).as_ref());
        let manifest = json!([{
            "Config": format!("{config_hash}.json"),
            "RepoTags": [self.reference()],
            "Layers": [format!("{layer_hash}.tar")],
        }])
        .to_string();
        let mut tar = Builder::new(BufWriter::new(out));
        let length = layer.seek(SeekFrom::End(0))?;
        layer.seek(SeekFrom::Start(0))?;
        let mut append = |path: &str, length: u64, data: &mut dyn Read| {
            tar.append_data(&mut header(EntryType::Regular, 0o644, length), path, data)
        };
        append(&format!("{config_hash}.json"), config.len() as u64, &mut config.as_bytes())?;
        append(&format!("{layer_hash}.tar"), length, layer)?;
        append("manifest.json", manifest.len() as u64, &mut manifest.as_bytes())?;
        tar.into_inner()?.flush()
    }
}

/// Makes the images of what comes from Debian packages, in `target`. They are made anew each time, which takes
/// a second, since an archive does not tell from which packages it was made.
///
/// # Errors
/// When a file cannot be read or written.
pub fn provide(packages: &Path, target: &Path) -> Result<(), Error> {
    let program = |name: &str| packages.join("usr/bin").join(name);
    // Alertmanager as Debian builds it reads its default templates from files.
    let templates = packages.join("usr/share/prometheus/alertmanager");
    let alertmanager = ["default.tmpl", "email.tmpl"].map(|name| (templates.join(name), name)).into_iter().fold(
        Image::new("alertmanager:dev", &["/usr/bin/alertmanager"])
            .file(program("prometheus-alertmanager"), "/usr/bin/alertmanager"),
        |image, (host, name)| image.file(host, format!("/usr/share/prometheus/alertmanager/{name}")),
    );
    let prometheus =
        Image::new("prometheus:dev", &["/usr/bin/prometheus"]).file(program("prometheus"), "/usr/bin/prometheus");
    for (name, image) in [("prometheus", prometheus), ("alertmanager", alertmanager)] {
        image.write(&target.join(format!("{name}.tar")))?;
    }
    Ok(())
}

/// Makes the image of every pod's sandbox, in the cache, by the hash of its source. Returns its archive.
///
/// # Errors
/// When there is no C compiler, or a file cannot be written.
pub fn pause(cache: &Path) -> Result<PathBuf, Error> {
    let source = hex(&digest::digest(&digest::SHA256, PAUSE.as_bytes()).as_ref()[..8]);
    let archive = cache.join("images").join(format!("pause-{source}.tar"));
    if !archive.exists() {
        let folder = tempfile::tempdir().map_err(error("create", &std::env::temp_dir()))?;
        let program = compile_pause(folder.path())?;
        Image::new(PAUSE_IMAGE, &["/pause"]).file(program, "/pause").write(&archive)?;
    }
    Ok(archive)
}

/// The program that holds a pod's namespaces: it waits for the signal to end, and buries orphans.
const PAUSE: &str = "#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
    static void end(int s) { (void)s; _exit(0); }\n\
    int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, SIG_IGN); for (;;) pause(); }\n";

fn compile_pause(folder: &Path) -> Result<PathBuf, Error> {
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    std::fs::write(&source, PAUSE).map_err(error("write", &source))?;
    let output = Command::new("cc")
        .args(["-static", "-Os", "-s", "-o"])
        .args([&program, &source])
        .output()
        .map_err(error("run", Path::new("cc")))?;
    if output.status.success() {
        return Ok(program);
    }
    Err(Error::Compile(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The libraries that the dynamic linker would load for a program, and those in [`ALSO`] beside them;
/// none for a static program or a data file.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut magic = [0; 4];
    let mut file = File::open(program).map_err(error("open", program))?;
    if file.read(&mut magic).map_err(error("read", program))? < 4 || &magic != b"\x7fELF" {
        return Ok(Vec::new());
    }
    let output = Command::new("ldd").arg(program).output().map_err(error("run ldd on", program))?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match parse_ldd(line) {
            Ldd::Nothing => {}
            Ldd::At(path) => found.push(path),
            Ldd::Missing(library) => {
                return Err(Error::Library { program: program.into(), library });
            }
        }
    }
    let libc = found.iter().find(|path| path.ends_with("libc.so.6"));
    if let Some(folder) = libc.and_then(|path| path.parent()).map(Path::to_path_buf) {
        found.extend(ALSO.iter().map(|name| folder.join(name)).filter(|path| path.exists()));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
enum Ldd {
    Nothing,
    At(PathBuf),
    Missing(String),
}

/// One line of ldd: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`,
/// `libx.so => not found`, `linux-vdso.so.1 (0x…)`, `statically linked`.
fn parse_ldd(line: &str) -> Ldd {
    let line = line.trim();
    let (name, place) = line.split_once(" => ").unwrap_or((line, line));
    if place.starts_with("not found") {
        return Ldd::Missing(name.to_owned());
    }
    match place.split_once(" (") {
        Some((path, _)) if path.starts_with('/') => Ldd::At(path.into()),
        _ => Ldd::Nothing,
    }
}

/// Writes the layer and returns its hash.
fn write_layer(files: &BTreeMap<PathBuf, PathBuf>, out: &mut File, archive: &Path) -> Result<String, Error> {
    let mut tar = Builder::new(Hashing::new(BufWriter::new(out)));
    let write = || error("write", archive);
    for (path, mode) in directories(files) {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), path, io::empty()).map_err(write())?;
    }
    let accounts = [
        ("etc/passwd", format!("root:x:0:0:root:/:/none\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/tmp:/none\n")),
        ("etc/group", format!("root:x:0:\nnonroot:x:{NONROOT}:\n")),
        ("etc/nsswitch.conf", "hosts: files dns\n".to_owned()),
    ];
    for (path, text) in &accounts {
        let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).map_err(write())?;
    }
    for (image, host) in files {
        let file = File::open(host).map_err(error("open", host))?;
        let metadata = file.metadata().map_err(error("read", host))?;
        let mode =
            if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 == 0 { 0o644 } else { 0o755 };
        let relative = image.strip_prefix("/").unwrap_or(image);
        tar.append_data(&mut header(EntryType::Regular, mode, metadata.len()), relative, file)
            .map_err(error("add", host))?;
    }
    let mut hashing = tar.into_inner().map_err(write())?;
    hashing.flush().map_err(write())?;
    Ok(hex(hashing.context.finish().as_ref()))
}

/// All directories of the image, parents first.
fn directories(files: &BTreeMap<PathBuf, PathBuf>) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::from([(PathBuf::from("etc"), 0o755), (PathBuf::from("tmp"), 0o1777)]);
    for path in files.keys() {
        let relative = path.strip_prefix("/").unwrap_or(path);
        for parent in relative.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            all.entry(parent.into()).or_insert(0o755);
        }
    }
    all
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    context: digest::Context,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, context: digest::Context::new(&digest::SHA256) }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.context.update(&buffer[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        for (line, expected) in [
            ("\tlinux-vdso.so.1 (0x00007f)", Ldd::Nothing),
            ("\tstatically linked", Ldd::Nothing),
            ("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)", Ldd::At("/lib/x/libc.so.6".into())),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x7f)", Ldd::At("/lib64/ld-linux-x86-64.so.2".into())),
            ("\tlibx.so => not found", Ldd::Missing("libx.so".into())),
        ] {
            assert_eq!(parse_ldd(line), expected, "{line}");
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes_with_libraries() {
        let place = tempfile::tempdir().unwrap();
        let image = Image::new("x:dev", &["/x"]).file("/bin/ls", "/usr/bin/ls");
        let (first, second) = (place.path().join("1.tar"), place.path().join("2.tar"));
        image.write(&first).unwrap();
        image.write(&second).unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(second).unwrap());
        assert!(image.with_libraries().unwrap().keys().any(|path| path.ends_with("libc.so.6")));
    }

    #[test]
    fn names_are_completed_as_containerd_does() {
        for (name, expected) in [
            ("pause:dev", "docker.io/library/pause:dev"),
            ("team/x:1", "docker.io/team/x:1"),
            ("ghcr.io/x:1", "ghcr.io/x:1"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
        ] {
            assert_eq!(Image::new(name, &[]).reference(), expected);
        }
    }
}
