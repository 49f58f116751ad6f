//! The program `examples/pmem_kv`, from the outside: output and exit status.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// The program, which `cargo test` has built.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let program = profile.join("examples/pmem_kv");
        if !program.exists() {
            // `cargo test --test pmem_kv_cli` builds no examples.
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--offline", "--example", "pmem_kv", "--target-dir"]);
            cargo.arg(profile.parent().unwrap());
            if profile.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(
                cargo
                    .current_dir(env!("CARGO_MANIFEST_DIR"))
                    .status()
                    .unwrap()
                    .success()
            );
        }
        assert!(program.exists(), "cargo has built no {}", program.display());
        program
    })
}

struct Kv {
    folder: TempDir,
}

impl Kv {
    fn new() -> Kv {
        let folder = tempfile::tempdir().unwrap();
        Kv { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pool(&self) -> PathBuf {
        self.path("pmem_kv.pool")
    }

    /// Runs it in the folder, where its default pool is.
    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        self.run_as(&mut Command::new(program()), args, input)
    }

    fn run_as(&self, program: &mut Command, args: &[&str], input: &[u8]) -> Output {
        let mut child = program
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Runs it, expects that exit status, and returns both outputs.
    fn expect(&self, args: &[&str], input: &[u8], status: i32) -> (String, String) {
        let output = self.run(args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}{err}");
        (out, err)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn values_go_in_and_come_out() {
    let kv = Kv::new();
    let (_, err) = kv.expect(&["put", "a/1", "--capacity", "1M"], b"one", 0);
    assert!(err.starts_with("put a/1 (3 bytes)\nmedia: "), "{err}");
    assert_eq!(fs::metadata(kv.pool()).unwrap().len() % 4096, 0);
    let every: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(kv.path("file"), &every).unwrap();
    kv.expect(&["put", "a/2", "file"], b"", 0);
    let (_, err) = kv.expect(&["put", "a/1"], b"one again", 0);
    assert!(err.starts_with("replaced a/1 (9 bytes)"), "{err}");
    kv.expect(&["put", "b"], b"", 0);

    assert_eq!(kv.run(&["get", "a/2"], b"").stdout, every);
    kv.expect(&["get", "a/2", "-o", "copy"], b"", 0);
    assert_eq!(fs::read(kv.path("copy")).unwrap(), every);
    assert_eq!(kv.expect(&["scan"], b"", 0).0, "a/1\na/2\nb\n");
    assert_eq!(kv.expect(&["scan", "a/"], b"", 0).0, "a/1\na/2\n");
    let (long, _) = kv.expect(&["scan", "--long", "a/2"], b"", 0);
    assert!(long.contains("100000") && long.ends_with("a/2\n"), "{long}");

    kv.expect(&["del", "a/2"], b"", 0);
    let (out, err) = kv.expect(&["get", "a/2"], b"", 3);
    assert_eq!((&*out, &*err), ("", "there is no key a/2\n"));
    kv.expect(&["del", "a/2"], b"", 3);
    let (stat, _) = kv.expect(&["stat"], b"", 0);
    for line in [
        "media ",
        "records             2\n",
        "may grow to         256 pages",
    ] {
        assert!(stat.contains(line), "{line} in\n{stat}");
    }
    let (out, _) = kv.expect(&["compact"], b"", 0);
    assert!(out.starts_with("moved "), "{out}");
    let (out, _) = kv.expect(&["check"], b"", 0);
    assert!(
        out.starts_with("2 records") && out.ends_with("everything is sound\n"),
        "{out}"
    );
    assert_eq!(kv.expect(&["get", "a/1"], b"", 0).0, "one again");
}

#[test]
fn check_names_what_is_wrong_and_fails() {
    let kv = Kv::new();
    kv.expect(&["put", "good", "--capacity", "1M"], b"good", 0);
    kv.expect(&["put", "rotten"], b"some value that will rot", 0);
    let mut bytes = fs::read(kv.pool()).unwrap();
    let at = bytes.windows(9).position(|w| w == b"will rot\0").unwrap();
    bytes[at] ^= 1;
    fs::write(kv.pool(), &bytes).unwrap();
    let (out, _) = kv.expect(&["check"], b"", 1);
    for part in [
        "slot 1",
        "\"rotten\"",
        "checksum mismatch: stored 0x",
        "1 finding",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    assert_eq!(fs::read(kv.pool()).unwrap(), bytes);
    let (_, err) = kv.expect(&["get", "rotten"], b"", 1);
    assert!(
        err.contains("error: the record is damaged: slot 1"),
        "{err}"
    );
    let (out, err) = kv.expect(&["get", "good"], b"", 0);
    assert!(
        out == "good" && err.starts_with("warning: slot 1"),
        "{out}{err}"
    );
    let (out, _) = kv.expect(&["scan", "-l"], b"", 0);
    assert!(out.contains("rotten  DAMAGED"), "{out}");
}

#[test]
fn what_cannot_be_done_is_said_on_one_line() {
    let kv = Kv::new();
    let fails = |args: &[&str], input: &[u8], part: &str| {
        let (out, err) = kv.expect(args, input, 1);
        assert!(
            out.is_empty() && err.starts_with("error: ") && err.contains(part),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1, "{err}");
    };
    for command in ["stat", "check", "scan", "compact"] {
        fails(&[command], b"", "there is no pool at pmem_kv.pool");
    }
    assert!(!kv.pool().exists());
    // No temporary folder is on a file system with DAX, or else this tells.
    fails(
        &["put", "k", "--media", "pmem"],
        b"v",
        "pmem media need a file system with DAX, and this one refuses MAP_SYNC; use --media file",
    );
    assert!(!kv.pool().exists(), "a pool that nobody can open");
    fails(&["put", "k", "nowhere"], b"", "nowhere");
    fails(
        &["put", "", "--capacity", "1M"],
        b"v",
        "a key of 0 bytes: expected 1 to 1024",
    );
    kv.expect(
        &["put", "k", "--capacity", "64K", "--pool", "small"],
        b"v",
        0,
    );
    fails(
        &["put", "k", "--pool", "small"],
        &[1; 70_000],
        "a value of 70000 bytes: expected at most",
    );
    fails(
        &["put", "l", "--pool", "small"],
        &[1; 50_000],
        "the pool is full",
    );
    kv.expect(&["get", "k", "--pool", "small"], b"", 0);
    fs::write(
        kv.path("text"),
        "this is a text, not a pool, and it is long enough to be one",
    )
    .unwrap();
    fails(
        &["stat", "--pool", "text"],
        b"",
        "truncated: expected at least 12288 bytes, found 59",
    );
    fs::write(kv.path("text"), "this is a text, not a pool. ".repeat(9)).unwrap();
    fails(
        &["stat", "--pool", "text"],
        b"",
        "this is no pool: expected the magic",
    );
    let small = fs::File::open(kv.path("small")).unwrap();
    flock(&small, FlockOperation::NonBlockingLockExclusive).unwrap();
    fails(&["put", "k", "--pool", "small"], b"v", "small is in use");
    fails(&["get", "k", "--pool", "small"], b"", "small is in use");
}

/// The number in the row of `stat` that begins with `name`, before `unit`.
fn number(stat: &str, name: &str, unit: &str) -> f64 {
    let row = stat
        .lines()
        .find(|line| line.trim_start().starts_with(name));
    let row = row.unwrap_or_else(|| panic!("{name} in\n{stat}"));
    let before = row
        .split_once(unit)
        .unwrap_or_else(|| panic!("{unit} in {row}"));
    before.0.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn the_space_that_comes_back_is_seen_by_stat_and_du() {
    const MIB: u64 = 1 << 20;
    let kv = Kv::new();
    let value = vec![1; MIB as usize - 1000];
    for i in 0..8 {
        kv.expect(&["put", &i.to_string(), "--capacity", "64M"], &value, 0);
    }
    let of_the_file = || {
        let meta = fs::metadata(kv.pool()).unwrap();
        (meta.len(), meta.blocks() * 512)
    };
    let (full_len, full_blocks) = of_the_file();
    assert!(
        full_len >= 8 * MIB && full_blocks >= 8 * MIB,
        "{full_len} {full_blocks}"
    );
    for i in 1..7 {
        kv.expect(&["del", &i.to_string()], b"", 0);
    }
    // Holes: as long as before, and six values smaller.
    let (len, blocks) = of_the_file();
    assert_eq!(len, full_len);
    assert!(blocks <= full_blocks - 5 * MIB, "{full_blocks} to {blocks}");
    let (stat, _) = kv.expect(&["stat"], b"", 0);
    assert_eq!(number(&stat, "file length", " pages"), (len / 4096) as f64);
    assert!(number(&stat, "allocated (du)", " MiB") < 3.0, "{stat}");
    // Moved to the front and cut off.
    let (out, _) = kv.expect(&["compact"], b"", 0);
    assert!(out.starts_with("moved 1 records"), "{out}");
    let (len, blocks) = of_the_file();
    assert!(len < 3 * MIB && blocks < 3 * MIB, "{len} {blocks}");
    let (stat, _) = kv.expect(&["stat"], b"", 0);
    assert_eq!(number(&stat, "file length", " pages"), (len / 4096) as f64);
    for i in ["0", "7"] {
        assert!(kv.run(&["get", i], b"").stdout == value);
    }
}

#[test]
fn every_command_says_what_its_media_are() {
    let kv = Kv::new();
    kv.expect(&["put", "key", "--capacity", "1M"], b"value", 0);
    fs::write(kv.path("file"), "value").unwrap();
    for args in [
        &["put", "key"][..],
        &["get", "key"],
        &["scan"],
        &["compact"],
        &["export", "key", "to"],
        &["import", "file", "key"],
        &["stat"],
        &["check"],
        &["del", "key"],
    ] {
        let (out, err) = kv.expect(&[args, &["--media", "volatile"]].concat(), b"", 0);
        let all = out + &err;
        let told = all.matches("volatile (no flushing").count();
        assert_eq!(told, 1, "{args:?}\n{all}");
    }
}

#[test]
fn usage_is_explained() {
    let kv = Kv::new();
    let (help, _) = kv.expect(&["--help"], b"", 0);
    let words = [
        "put",
        "get",
        "del",
        "scan",
        "compact",
        "stat",
        "check",
        "demo",
        "export",
        "import",
        "bench",
        "pmem",
        "--pool",
        "--media",
        "volatile",
        "Exit status",
        "1024 bytes",
        "256 MiB",
    ];
    for word in words {
        assert!(help.contains(word), "{word} in\n{help}");
    }
    let commands = help.split("Commands:\n").nth(1).unwrap();
    let commands = commands.lines().take_while(|line| !line.trim().is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let commands: Vec<_> = commands.filter(|name| *name != "help").collect();
    assert_eq!(commands.len(), 11, "{commands:?}");
    for command in commands {
        let (help, _) = kv.expect(&[command, "-h"], b"", 0);
        assert!(!help.starts_with("Usage"), "what {command} is for: {help}");
        let rows: Vec<_> = help.lines().filter(|line| line.starts_with("  ")).collect();
        assert!(rows.len() >= 3, "{help}");
        for row in rows {
            // Name, at least two spaces, words.
            let words = row.trim().split_once("  ").map(|(_, words)| words.trim());
            assert!(
                words.is_some_and(|words| words.len() > 5),
                "{row} in\n{help}"
            );
        }
    }
    for args in [
        &["get"][..],
        &["nonsense"],
        &["put", "k", "--capacity", "x"],
        &["demo", "--seconds", "0"],
        &["bench", "--mix", "read=1,fly=2"],
        &["bench", "--mix", "read=0"],
        &["bench", "--values", "1G"],
    ] {
        kv.expect(args, b"", 2);
    }
}

#[test]
fn the_demo_proves_something_and_leaves_a_sound_pool() {
    let kv = Kv::new();
    let tree = kv.path("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::create_dir_all(tree.join("target/debug")).unwrap();
    for i in 0..20_usize {
        let name = if i % 2 == 0 {
            format!("{i}")
        } else {
            format!("deep/er/{i}")
        };
        fs::write(
            tree.join(name),
            format!("line of file {i}\n").repeat(50 * i),
        )
        .unwrap();
    }
    fs::write(tree.join("target/debug/big"), vec![0; 1 << 20]).unwrap();
    let args = [
        "demo",
        "--dir",
        "tree",
        "--seconds",
        "2",
        "--pool",
        "demo.pool",
    ];
    let (out, _) = kv.expect(&args, b"", 0);
    for part in [
        "files   20 from tree",
        "checksum failures",
        "in use",
        "every byte was right",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    let (out, _) = kv.expect(&["check", "--pool", "demo.pool"], b"", 0);
    assert!(out.contains("everything is sound"), "{out}");
    // It makes a new pool, and takes no old one for it.
    let (_, err) = kv.expect(&args, b"", 1);
    assert!(err.contains("there is already a file"), "{err}");
}

#[test]
fn a_demo_of_nothing_fails() {
    let kv = Kv::new();
    fs::create_dir(kv.path("empty")).unwrap();
    let (_, err) = kv.expect(&["demo", "--dir", "empty"], b"", 1);
    assert!(err.contains("there is nothing to load"), "{err}");
    kv.expect(&["demo", "--dir", "nowhere"], b"", 1);
}

#[test]
fn values_go_to_files_and_back_by_any_device() {
    let kv = Kv::new();
    kv.expect(&["put", "first", "--capacity", "16M"], b"value", 0);
    for (device, told) in [("auto", ", "), ("threads", "pwrite and pread")] {
        for len in [0, 1, 4095, 4096, 5000, 1 << 20] {
            let value: Vec<u8> = (0..len as u32).map(|i| (i ^ i >> 9) as u8).collect();
            fs::write(kv.path("from"), &value).unwrap();
            let args = |what, one, other| [what, one, other, "--device", device];
            let (_, err) = kv.expect(&args("import", "from", "key"), b"", 0);
            assert!(
                err.contains(&format!("imported key ({len} bytes), ")),
                "{err}"
            );
            assert!(err.contains(told), "{err}");
            kv.expect(&args("export", "key", "to"), b"", 0);
            assert!(fs::read(kv.path("to")).unwrap() == value, "{len} bytes");
            let file = kv.run(&["get", "key"], b"");
            assert!(file.stdout == value, "{len} bytes");
        }
    }
    kv.expect(&["export", "nothing", "to"], b"", 3);
    let (_, err) = kv.expect(&["import", "nothing", "key"], b"", 1);
    assert!(err.contains("opening the file to import"), "{err}");
    let (_, err) = kv.expect(&["export", "key", "no/where"], b"", 1);
    assert!(err.contains("opening the file to export to"), "{err}");
    kv.expect(&["check"], b"", 0);
}

/// A pool that was cut off to nothing, and everything in it lost, to have one of its values in its place; and a value
/// replaced by an empty one, as its file was a pipe and had no length.
#[test]
fn a_value_is_not_written_over_its_pool_nor_read_from_what_has_no_length() {
    let kv = Kv::new();
    let value = vec![7; 100_000];
    kv.expect(&["put", "key", "--capacity", "16M"], &value, 0);
    fs::hard_link(kv.pool(), kv.path("other name")).unwrap();
    let before = fs::read(kv.pool()).unwrap();
    for to in ["pmem_kv.pool", "./pmem_kv.pool", "other name"] {
        for device in ["auto", "threads"] {
            let (_, err) = kv.expect(&["export", "key", to, "--device", device], b"", 1);
            assert!(err.contains(&format!("{to} is the pool itself")), "{err}");
        }
        let (_, err) = kv.expect(&["get", "key", "-o", to], b"", 1);
        assert!(err.contains(&format!("{to} is the pool itself")), "{err}");
    }
    for from in ["/dev/stdin", ".", "/dev/null"] {
        let (_, err) = kv.expect(&["import", from, "key"], b"from a pipe", 1);
        assert!(err.contains(&format!("{from} is no regular file")), "{err}");
    }
    assert!(fs::read(kv.pool()).unwrap() == before);
    // A longer file is overwritten as a whole, and what has no length can be written to.
    fs::write(kv.path("to"), vec![1; 200_000]).unwrap();
    for args in [["export", "key", "to"], ["get", "key", "--output=to"]] {
        kv.expect(&args, b"", 0);
        assert!(fs::read(kv.path("to")).unwrap() == value);
        fs::write(kv.path("to"), vec![1; 200_000]).unwrap();
    }
    assert!(kv.run(&["get", "key", "-o", "/dev/stdout"], b"").stdout == value);
}

/// The program as it is where system call filters forbid io_uring: containers, hardened systems.
fn without_io_uring() -> Command {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // If it is `io_uring_setup`, EPERM, else go on.
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let mut command = Command::new(program());
    let forbid = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel only reads `program` and the filter, which live until the call returns.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
        };
        if refused {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls, and nothing else.
    unsafe { command.pre_exec(forbid) };
    command
}

#[test]
fn where_io_uring_is_not_allowed_it_says_so_and_uses_threads() {
    let kv = Kv::new();
    let run = |args: &[&str], input: &[u8], status| {
        let output = kv.run_as(&mut without_io_uring(), args, input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}{err}");
        (out, err)
    };
    const SAID: &str = "pwrite and pread (io_uring: Operation not permitted";
    let value: Vec<u8> = (0..100_000_u32).map(|i| (i ^ (i >> 9)) as u8).collect();
    fs::write(kv.path("from"), &value).unwrap();
    run(&["put", "first", "--capacity", "16M"], b"value", 0);
    for args in [["import", "from", "key"], ["export", "key", "to"]] {
        let (_, err) = run(&args, b"", 0);
        assert!(err.contains(SAID), "{err}");
    }
    assert!(fs::read(kv.path("to")).unwrap() == value);
    let (_, err) = run(&["export", "key", "to", "--device", "uring"], b"", 1);
    assert!(err.starts_with("error: setting up an io_uring: "), "{err}");
    fs::create_dir(kv.path("tree")).unwrap();
    fs::write(kv.path("tree/file"), &value).unwrap();
    // It fails if nothing was exported and imported.
    let demo = ["demo", "--dir", "tree", "--seconds", "1", "--pool", "demo"];
    let (out, _) = run(&demo, b"", 0);
    assert!(
        out.contains(SAID) && out.contains("exports to files, by 4 threads"),
        "{out}"
    );
}

/// What came out wrong in a demo, of how much: reads, exports.
fn wrong(kv: &Kv, args: &[&str]) -> [[u64; 2]; 2] {
    // Without breaks it fails if all went well.
    let output = kv.run(args, b"");
    let out = text(&output.stdout);
    assert!(
        args.contains(&"--without-lease") || output.status.success(),
        "{out}"
    );
    let told = |line: &&str| {
        line.starts_with("every byte was right, in ") || line.starts_with("without breaks, in ")
    };
    let told = out.lines().find(told).unwrap_or_else(|| panic!("{out}"));
    let numbers = told.split_once(": ").unwrap().1.split(' ');
    let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
    let [reads, of_reads, exports, of_exports] = numbers[..] else {
        panic!("{out}");
    };
    assert!(reads <= of_reads && exports <= of_exports, "{out}");
    [[reads, of_reads], [exports, of_exports]]
}

/// The demo and its control: the same code, the same timing, the same run length, and breaks that find nobody.
#[test]
fn without_the_lease_the_demo_sees_wrong_bytes_and_with_it_none_in_the_same_time() {
    let kv = Kv::new();
    let tree = kv.path("tree");
    fs::create_dir(&tree).unwrap();
    for i in 0..20_usize {
        let text = format!("line of file {i}\n").repeat(50 * i);
        fs::write(tree.join(i.to_string()), text).unwrap();
    }
    // For longer, both, where a machine is too slow to show it.
    for seconds in [2, 4, 8, 16, 32] {
        let args = ["demo", "--dir", "tree", "--seconds", &seconds.to_string()];
        let with = wrong(&kv, &args);
        assert_eq!([with[0][0], with[1][0]], [0, 0]);
        let without = wrong(&kv, &[&args[..], &["--without-lease"]].concat());
        println!(
            "{seconds} s: wrong reads and exports with the lease {with:?}, without {without:?}"
        );
        if without[0][0] > 0 && without[1][0] > 0 {
            return;
        }
    }
    panic!("nothing goes wrong without the lease");
}

#[test]
fn bench_measures_each_operation_with_each_size() {
    let kv = Kv::new();
    let mix = ["--mix", "read=5,overwrite=3,delete=1,export=1"];
    let volatile = ["--media", "volatile"];
    let args = ["bench", "--seconds", "1", "--values", "100,256K"];
    let (out, _) = kv.expect(&[&args[..], &mix, &volatile].concat(), b"", 0);
    for part in ["media: ", "values of 100 B", "values of 256.0 KiB", "p99.9"] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    for operation in ["read", "overwrite", "delete", "export"] {
        assert_eq!(out.matches(&format!("  {operation} ")).count(), 2, "{out}");
    }
    // What is not in the mix is not in the table.
    let args = [
        "bench",
        "--seconds",
        "1",
        "--values",
        "5000",
        "--mix",
        "overwrite",
        "--hold",
        "10",
        "--json",
    ];
    let (out, _) = kv.expect(&args, b"", 0);
    assert_eq!(out.lines().count(), 1, "{out}");
    for part in [
        "\"operation\":\"overwrite\"",
        "\"value_bytes\":5000",
        "\"held\":10",
        "\"p999_ns\":",
    ] {
        assert!(
            out.starts_with('{') && out.contains(part),
            "{part} in {out}"
        );
    }
    let left = fs::read_dir(kv.folder.path()).unwrap();
    assert_eq!(left.count(), 0, "it cleans up");
}

#[test]
fn ctrl_c_ends_in_order_and_leaves_a_sound_pool() {
    let kv = Kv::new();
    fs::create_dir(kv.path("tree")).unwrap();
    for i in 0..20_usize {
        let text = format!("line of file {i}\n").repeat(50 * i);
        fs::write(kv.path("tree").join(i.to_string()), text).unwrap();
    }
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = Command::new(program())
            .args([
                "demo",
                "--dir",
                "tree",
                "--seconds",
                "600",
                "--pool",
                "demo.pool",
            ])
            .current_dir(kv.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The line before it loads.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("files ")));
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        drop(lines);
        let (out, _) = kv.expect(&["check", "--pool", "demo.pool"], b"", 0);
        assert!(out.contains("everything is sound"), "{out}");
        fs::remove_file(kv.path("demo.pool")).unwrap();
        let left: Vec<_> = fs::read_dir(kv.folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "more than the tree: {left:?}");
    }
}
