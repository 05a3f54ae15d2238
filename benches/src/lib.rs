//! Inputs that the benches share.

/// A modern `tools/call` whose text has `padding` bytes.
pub fn modern_call(padding: usize) -> String {
    let text = "x".repeat(padding);
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}","n":1,"list":[1,2,3]}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"bench","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}
