//! The control socket with real clients.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::super::history::Entry;
use super::client::TIMEOUT;
use super::*;

struct Office {
    ctl: Ctl,
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Office {
    fn open() -> Office {
        let dir = tempfile::tempdir().expect("dir");
        let at = path(None, dir.path());
        Office { ctl: Ctl::listen(&at).expect("listen"), at, _dir: dir }
    }

    fn connect(&mut self) -> (UnixStream, u64) {
        let client = UnixStream::connect(&self.at).expect("connect");
        (client, self.ctl.accept(0).expect("accept").expect("a client"))
    }

    /// A client that has asked for something.
    fn ask(&mut self, request: &str) -> (UnixStream, u64) {
        let (mut client, id) = self.connect();
        client.write_all(request.as_bytes()).expect("write");
        client.write_all(b"\n").expect("write");
        assert_eq!(self.ctl.turn(id), Turn::Asked(request.as_bytes().to_vec()));
        (client, id)
    }

    /// A client that waits for a reload.
    fn wait(&mut self) -> (UnixStream, u64) {
        let (client, id) = self.ask("reload");
        assert!(self.ctl.may_wait());
        assert_eq!(
            self.ctl.reply(id, Reply::Later(Operation::Reload, "first".to_owned(), None), 0),
            Turn::Read
        );
        (client, id)
    }
}

fn text(mut client: UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("read");
    text
}

fn done() -> Outcome {
    Outcome { ok: true, ..Outcome::default() }
}

#[test]
fn a_request_in_pieces_is_answered_once_and_the_file_goes_with_the_socket() {
    let dir = tempfile::tempdir().expect("dir");
    let at = path(None, dir.path());
    fs::write(&at, "left behind").expect("write");
    let mut ctl = Ctl::listen(&at).expect("listen");
    assert_eq!(fs::metadata(&at).expect("metadata").permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&at).expect("connect");
    let id = ctl.accept(0).expect("accept").expect("a client");
    assert_eq!(ctl.turn(id), Turn::Read);
    client.write_all(b"{\"command\":").expect("write");
    assert_eq!(ctl.turn(id), Turn::Read);
    client.write_all(b"\"status\"}\nrest").expect("write");
    let Turn::Asked(request) = ctl.turn(id) else { panic!("a whole request") };
    assert_eq!(serde_json::from_slice::<Request>(&request).expect("request"), Request::Status);
    assert_eq!(ctl.reply(id, Reply::Now(b"answer\n".to_vec()), 0), Turn::Over);
    let mut answer = [0; 7];
    client.read_exact(&mut answer).expect("read");
    assert_eq!(&answer, b"answer\n");
    drop(ctl);
    assert!(!at.exists());
}

#[test]
fn a_large_answer_is_owed_until_it_was_taken_or_its_time_is_over() {
    let mut office = Office::open();
    let large = || Reply::Now(vec![b'x'; 4 << 20]);
    assert!(!office.ctl.owes_much());
    let (mut client, id) = office.ask("why");
    assert_eq!(office.ctl.reply(id, large(), 0), Turn::Write, "more than a socket holds");
    assert!(office.ctl.owes_much());
    let mut bytes = vec![0; 64 * 1024];
    while office.ctl.turn(id) != Turn::Over {
        assert!(client.read(&mut bytes).expect("read") > 0);
    }
    assert!(!office.ctl.owes_much());
    let (_client, id) = office.ask("why");
    assert_eq!(office.ctl.reply(id, large(), 7), Turn::Write);
    office.ctl.expire(7 + TIMEOUT - 1);
    assert!(office.ctl.owes_much());
    office.ctl.expire(7 + TIMEOUT);
    assert!(!office.ctl.owes_much());
}

#[test]
fn an_operation_is_answered_when_the_run_has_ended_that_began_after_the_request() {
    let mut office = Office::open();
    let (early, early_id) = office.wait();
    office.ctl.begins(Operation::Reload);
    let (late, late_id) = office.wait();
    assert_eq!(office.ctl.tell(Operation::Reload, "slot 0"), [early_id]);
    assert_eq!(office.ctl.turn(early_id), Turn::Read);
    office.ctl.expire(Ns::MAX);
    assert_eq!(office.ctl.next_deadline(), None, "who waits has no deadline");
    assert_eq!(office.ctl.ends(Operation::Reload, &done(), 9), [early_id]);
    assert_eq!(office.ctl.next_deadline(), Some(9 + TIMEOUT));
    assert_eq!(office.ctl.turn(early_id), Turn::Over);
    let lines: Vec<String> = text(early).lines().map(str::to_owned).collect();
    assert_eq!(lines[..2], ["{\"progress\":\"first\"}", "{\"progress\":\"slot 0\"}"]);
    assert_eq!(serde_json::from_str::<Outcome>(&lines[2]).expect("the outcome"), done());

    assert!(office.ctl.ends(Operation::Reload, &done(), 9).is_empty(), "no run of its own yet");
    assert_eq!(office.ctl.ends_all(|_| true, &Outcome::default(), 9), [late_id]);
    assert_eq!(office.ctl.turn(late_id), Turn::Over);
    assert!(text(late).ends_with("\"settings_generation\":0}\n"));
}

#[test]
fn who_leaves_while_waiting_is_forgotten_and_who_does_not_read_is_told_little() {
    let mut office = Office::open();
    let (mut chatty, id) = office.wait();
    chatty.write_all(b"are you there?").expect("write");
    assert_eq!(office.ctl.turn(id), Turn::Read);
    drop(chatty);
    assert_eq!(office.ctl.turn(id), Turn::Over);
    assert!(office.ctl.client(id).is_none());

    let (_silent, id) = office.wait();
    office.ctl.begins(Operation::Reload);
    for _ in 0..10_000 {
        assert_eq!(office.ctl.tell(Operation::Reload, &"x".repeat(1000)), [id]);
        office.ctl.turn(id);
    }
    assert!(!office.ctl.owes_much());
}

/// Goes on with a reader of events as the master does.
fn serve(office: &mut Office, id: u64, history: &History) -> Turn {
    let mut turn = office.ctl.turn(id);
    while turn == Turn::Read && office.ctl.feed(id, history, 7) {
        turn = office.ctl.turn(id);
    }
    turn
}

#[test]
fn events_are_read_to_the_one_that_was_the_last() {
    let mut office = Office::open();
    let mut history = History::default();
    (0..900).for_each(|number| history.push(Entry::new("ready", number.to_string())));
    let (mut client, id) = office.ask("events");
    assert_eq!(office.ctl.reply(id, Reply::Events(890, Some(900)), 0), Turn::Read);
    assert_eq!(serve(&mut office, id, &history), Turn::Over);
    let mut text = String::new();
    client.read_to_string(&mut text).expect("read");
    let seqs: Vec<u64> =
        text.lines().map(|line| serde_json::from_str::<Entry>(line).expect("an event").seq).collect();
    assert_eq!(seqs, (891..=900).collect::<Vec<u64>>());
}

#[test]
fn a_reader_that_does_not_read_costs_little_and_is_told_what_it_missed() {
    const EVENTS: u64 = 20_000;
    let mut office = Office::open();
    let mut history = History::default();
    let (mut client, id) = office.ask("events");
    assert_eq!(office.ctl.reply(id, Reply::Events(0, None), 0), Turn::Read);
    assert_eq!(serve(&mut office, id, &history), Turn::Read, "nothing has happened");
    assert_eq!(office.ctl.next_deadline(), None, "it may wait for ever");
    for number in 0..EVENTS {
        history.push(Entry::new("ready", format!("{number:0100}")));
        serve(&mut office, id, &history);
    }
    assert!(!office.ctl.owes_much());
    assert_eq!(office.ctl.next_deadline(), Some(7 + 60_000_000_000), "it has a minute to take what it has");
    client.set_nonblocking(true).expect("non-blocking");
    let (mut bytes, mut text) = ([0; 64 * 1024], Vec::new());
    while !String::from_utf8_lossy(&text).contains(&format!("\"seq\":{EVENTS},")) {
        match client.read(&mut bytes) {
            Ok(len) => text.extend_from_slice(&bytes[..len]),
            Err(_) => _ = serve(&mut office, id, &history),
        }
    }
    let (mut missed, mut got) = (0, 0);
    for line in String::from_utf8(text).expect("text").lines() {
        match serde_json::from_str::<Missed>(line) {
            Ok(some) => missed += some.missed,
            Err(_) => got += 1,
        }
    }
    assert!(missed > 0 && missed + got == EVENTS, "{missed} missed, {got} read");
    office.ctl.expire(7 + 60_000_000_000);
    assert!(office.ctl.client(id).is_some(), "it has taken what it had");
    drop(client);
    assert_eq!(serve(&mut office, id, &history), Turn::Over);
}

#[test]
fn those_that_wait_leave_places_for_others() {
    let mut office = Office::open();
    let waiting: Vec<_> = (0..MAX_WAITING).map(|_| office.wait()).collect();
    assert!(!office.ctl.may_wait());
    let (client, id) = office.ask("status");
    assert_eq!(office.ctl.reply(id, Reply::Now(b"answer\n".to_vec()), 0), Turn::Over);
    assert_eq!(text(client), "answer\n");
    drop(waiting);
}

#[test]
fn a_path_may_be_longer_than_an_address_of_a_socket() {
    let dir = tempfile::tempdir().expect("dir");
    let deep = dir.path().join("d".repeat(200));
    fs::create_dir(&deep).expect("directory");
    let at = path(None, &deep);
    let mut ctl = Ctl::listen(&at).expect("listen");
    let (_directory, name) = short_name(&at).expect("name");
    let _client = UnixStream::connect(name).expect("connect");
    assert!(at.exists() && matches!(ctl.accept(0), Ok(Some(_))));
}

#[test]
fn clients_are_bounded_in_number_size_and_time() {
    let mut office = Office::open();
    let mut clients: Vec<UnixStream> =
        (0..=MAX_CLIENTS).map(|_| UnixStream::connect(&office.at).expect("connect")).collect();
    let ids: Vec<_> = clients.iter().filter_map(|_| office.ctl.accept(7).expect("accept")).collect();
    assert_eq!(ids.len(), MAX_CLIENTS);
    assert!(office.ctl.is_full() && !office.ctl.listens_again(7), "the last one waits in the queue");
    clients[0].write_all(&vec![b'x'; 68 * 1024]).expect("write");
    assert_eq!(office.ctl.turn(ids[0]), Turn::Over);
    assert!(office.ctl.listens_again(7) && !office.ctl.listens_again(7), "once");
    assert!(office.ctl.accept(7).expect("accept").is_some() && !office.ctl.is_full());
    assert_eq!(office.ctl.next_deadline(), Some(7 + TIMEOUT));
    office.ctl.expire(7 + TIMEOUT);
    assert_eq!(office.ctl.next_deadline(), None);
}

#[test]
fn a_socket_that_cannot_accept_rests_and_then_listens_again() {
    let mut ctl = Office::open().ctl;
    assert!(matches!(ctl.accept(0), Ok(None)), "nobody there is no failure");
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert!(!is_the_clients(&io::Error::from_raw_os_error(errno)));
    }
    ctl.rest(7);
    assert_eq!((ctl.listens_again(8), ctl.next_deadline()), (false, Some(7 + REST)));
    assert_eq!((ctl.listens_again(7 + REST), ctl.listens_again(7 + REST)), (true, false));
    assert_eq!(ctl.next_deadline(), None);
}

#[test]
fn the_runtime_directory_comes_first() {
    let state = Path::new("/state");
    assert_eq!(path(Some("/run/a:/run/b"), state), Path::new("/run/a/ctl.sock"));
    assert_eq!(path(Some(""), state), Path::new("/state/ctl.sock"));
    assert_eq!(path(None, state), Path::new("/state/ctl.sock"));
}
