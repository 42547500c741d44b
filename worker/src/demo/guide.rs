//! What the user of `forkgate demo` reads: where things are, a line to paste, how to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::upstream::MODERN;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Guide {
    /// The main port.
    pub main: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// A token of an administrator.
    pub token: String,
    /// The tool that the example calls, by its name at the federated endpoint.
    pub tool: String,
    /// Where `forkgate ctl` finds the master.
    pub ctl_socket: PathBuf,
    /// Process id of the master.
    pub pid: u32,
}

/// A modern `tools/call` of an echo: the body of the pasteable line and of the check before it is shown.
pub fn example_call(tool: &str, message: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": { "message": message },
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {}
            }
        }
    })
}

/// The headers that go with [`example_call`].
pub fn example_headers(tool: &str) -> [(&'static str, &str); 3] {
    [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)]
}

impl Guide {
    /// Where MCP clients connect.
    pub fn mcp_url(&self) -> String {
        format!("http://{}/mcp", self.main)
    }

    fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// One line for programs.
    pub fn json(&self) -> String {
        let ctl_socket = self.ctl_socket.display().to_string();
        json!({
            "mcp_url": self.mcp_url(), "token": self.token, "admin_url": self.admin_url(), "ctl_socket": ctl_socket,
            "pid": self.pid
        })
        .to_string()
    }

    /// A page for people.
    pub fn text(&self) -> String {
        let Guide { token, pid, .. } = self;
        let (mcp, admin, call) = (self.mcp_url(), self.admin_url(), self.curl());
        let socket = self.ctl_socket.display();
        let api = format!("http://{}/v1", self.main);
        format!(
            "\n\
             forkgate is running, with a bundled upstream that is registered as \"demo\".\n\
             \n\
             MCP endpoint   {mcp}\n\
             Token (24 h)   {token}\n\
             \n\
             Call a tool: paste this into another terminal.\n\
             \n\
             {call}\n\
             \n\
             Upstreams      {api}/gateways   (register another one with POST)\n\
             Tools          {api}/tools\n\
             \x20              both with the header  Authorization: Bearer <token>\n\
             Status         {admin}/status\n\
             Metrics        {admin}/metrics\n\
             Workers        forkgate ctl status --socket {socket}\n\
             \n\
             Stop it with Ctrl-C here, or with  kill {pid} ; nothing stays behind.\n"
        )
    }

    /// The call as one line for a shell. Nothing in it has a single quote: the tool's name is made of a slug, a separator
    /// that the settings check, and `echo`; a token is base64url and dots.
    fn curl(&self) -> String {
        let mut line = format!(
            "curl -sS {} -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
             -H 'Accept: application/json, text/event-stream'",
            self.mcp_url(),
            self.token
        );
        for (name, value) in example_headers(&self.tool) {
            line.push_str(&format!(" -H '{name}: {value}'"));
        }
        let body = example_call(&self.tool, "Hello from forkgate").to_string().replace('\'', "'\\''");
        line.push_str(&format!(" -d '{body}'"));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guide() -> Guide {
        Guide {
            main: "127.0.0.1:4444".parse().expect("address"),
            admin: "127.0.0.1:4445".parse().expect("address"),
            token: "a.b.c".to_owned(),
            tool: "demo__echo".to_owned(),
            ctl_socket: "/tmp/demo/ctl.sock".into(),
            pid: 7,
        }
    }

    #[test]
    fn programs_get_one_line() {
        let line = guide().json();
        let want = json!({
            "mcp_url": "http://127.0.0.1:4444/mcp", "token": "a.b.c", "admin_url": "http://127.0.0.1:4445",
            "ctl_socket": "/tmp/demo/ctl.sock", "pid": 7
        });
        assert_eq!(serde_json::from_str::<Value>(&line).expect("json"), want);
        assert!(!line.contains('\n'));
    }

    #[test]
    fn the_line_to_paste_is_one_line_with_balanced_quotes() {
        let text = guide().text();
        let line = text.lines().find(|line| line.starts_with("curl ")).expect("a curl line");
        assert_eq!(line.matches('\'').count() % 2, 0);
        for part in ["Bearer a.b.c'", "Mcp-Name: demo__echo'", "Hello from forkgate", MODERN] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
