//! How requests of the kernel arrive.

use super::super::ring;
use super::*;
use tsugi_core::state::FuseTransport;

/// Runs on the first processor from now on.
fn stay_on_one() {
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
}

impl Pair {
    fn transport(&self) -> Option<FuseTransport> {
        self.runtime.block_on(self.a.process.figures()).unwrap().transport
    }
}

#[test]
fn requests_come_over_io_uring_where_the_kernel_offers_it_and_over_the_device_when_told_so() {
    let offered = if ring::offered().is_ok() { FuseTransport::IoUring } else { FuseTransport::Device };
    for (told, wanted) in [(Transport::Auto, offered), (Transport::Device, FuseTransport::Device)] {
        let mut pair = Pair::set_up("", &Replicated::default(), |to| to, |config| DataConfig { transport: told, patience: LONG, ..config });
        assert_eq!(pair.transport(), None);
        pair.serve_and_arm(1, 1);
        assert_eq!(pair.transport(), Some(wanted));
        fs::write(pair.a.dir.join("f"), "x").unwrap();
        pair.assert_equal();
    }
}

/// Of one processor, and more than there are threads for its requests in the beginning.
#[test]
fn however_many_writers_wait_for_a_lost_peer_the_next_request_is_served() {
    const WRITERS: u64 = 100;
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    let d = pair.a.dir.clone();
    fs::write(d.join("f"), "before").unwrap();
    let files: Vec<_> = (0..WRITERS).map(|n| fs::File::create(d.join(format!("f{n}"))).unwrap()).collect();
    pair.b.process.kill();
    pair.note(Who::A, "SessionLost", |n| matches!(n, ReplicaNote::SessionLost { .. }));
    let mut writes = Vec::new();
    for file in files {
        writes.push(aside(move || {
            stay_on_one();
            file.write_all_at(b"during", 0).map_err(|e| e.raw_os_error())
        }));
        // One after the other: what comes at the same moment may find no thread free.
        let begun = Instant::now();
        while pair.runtime.block_on(pair.a.process.figures()).unwrap().waiting < writes.len() as u64 {
            assert!(begun.elapsed() < LONG, "writer {} is not heard", writes.len());
            std::thread::yield_now();
        }
    }
    let read = aside(move || {
        stay_on_one();
        fs::read_to_string(d.join("f")).unwrap()
    });
    assert_eq!(read.recv_timeout(LONG).unwrap(), "before");
    pair.ok(Who::A, ReplicaOrder::GoAlone { epoch: Epoch(2) });
    for write in writes {
        assert_eq!(write.recv_timeout(LONG).unwrap(), Ok(()));
    }
}
