//! What the requests of one process share: one thread, so plain cells.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

#[derive(Default)]
pub struct Counters {
    pub connections: Cell<u64>,
    pub requests: Cell<u64>,
    pub initializes: Cell<u64>,
    pub calls: Cell<u64>,
    pub lists: Cell<u64>,
    pub deletes: Cell<u64>,
    pub modern: Cell<u64>,
    pub rest: Cell<u64>,
    pub open_connections: Cell<u64>,
    pub open_streams: Cell<u64>,
    pub streams: Cell<u64>,
}

pub fn bump(c: &Cell<u64>) {
    c.set(c.get() + 1);
}

pub struct State {
    /// Answer `/mcp` POSTs as one-event SSE.
    pub sse: bool,
    pub instructions: String,
    /// How long each POST takes besides.
    pub answer_after: Duration,
    pub sessions: RefCell<HashSet<String>>,
    pub next_session: Cell<u64>,
    /// Makes ids of successive processes differ.
    pub epoch: u64,
    pub n: Counters,
}

impl State {
    /// Mints and remembers a session id.
    pub fn new_session(&self) -> String {
        let n = self.next_session.get() + 1;
        self.next_session.set(n);
        // Spread the counter so that ids look random to anything hashing or sharding on them.
        let mix = (n ^ self.epoch).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let id = format!("{:016x}{:016x}", mix ^ (mix >> 29), n.wrapping_add(self.epoch));
        self.sessions.borrow_mut().insert(id.clone());
        id
    }
}

pub fn stats(state: &State) -> String {
    let n = &state.n;
    format!(
        concat!(
            r#"{{"connections":{},"open_connections":{},"requests":{},"initializes":{},"#,
            r#""calls":{},"lists":{},"deletes":{},"modern":{},"rest":{},"sessions":{},"#,
            r#""streams":{},"open_streams":{}}}"#
        ),
        n.connections.get(),
        n.open_connections.get(),
        n.requests.get(),
        n.initializes.get(),
        n.calls.get(),
        n.lists.get(),
        n.deletes.get(),
        n.modern.get(),
        n.rest.get(),
        state.sessions.borrow().len(),
        n.streams.get(),
        n.open_streams.get(),
    )
}

/// Counts a connection as open for as long as it lives.
pub struct OpenConnection(Rc<State>);

impl OpenConnection {
    pub fn new(state: &Rc<State>) -> Self {
        bump(&state.n.connections);
        bump(&state.n.open_connections);
        OpenConnection(state.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let c = &self.0.n.open_connections;
        c.set(c.get() - 1);
    }
}
