//! The section `LlmMetadataProto` of a new bundle, with the fields that the public exporter writes for Gemma 4.
//!
//! Source: `litert_lm_builder.py` and `model_ext/gemma4/metadata_builder.py` of litert-torch 0.10.0; the numbers of fields, see
//! `metadata.rs`.

/// What the metadata says. Empty texts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMetadata {
    /// The token before a prompt.
    pub start: String,
    /// Ids of tokens that end an answer.
    pub stop_ids: Vec<u64>,
    /// Texts that end an answer.
    pub stop_texts: Vec<String>,
    /// The largest number of tokens in the KV cache.
    pub max_tokens: u64,
    /// Tokens around a tool call.
    pub tool_call: [String; 2],
    /// The token on both sides of a string in a tool call.
    pub quote: String,
    /// The token before the answer of a tool.
    pub tool_response: String,
    /// The chat template (Jinja).
    pub template: String,
    /// The text before and after thoughts.
    pub thoughts: [String; 2],
    /// The padding token.
    pub pad: String,
}

impl NewMetadata {
    /// The bytes of the section.
    pub fn to_bytes(&self) -> Vec<u8> {
        let token = |text: &str| Message::default().text(2, text);
        let mut out = Message::default();
        if !self.start.is_empty() {
            out = out.message(1, token(&self.start));
        }
        for id in &self.stop_ids {
            let ids = Message::default().message(1, Message::default().varint(*id));
            out = out.message(2, Message::default().message(1, ids));
        }
        for text in &self.stop_texts {
            out = out.message(2, token(text));
        }
        let gemma4 = Message::default()
            .text(5, &self.tool_call[0])
            .text(6, &self.tool_call[1])
            .text(10, &self.quote)
            .text(11, &self.quote)
            .text(12, &self.tool_response);
        let channel =
            Message::default().text(1, "thought").text(2, &self.thoughts[0]).text(3, &self.thoughts[1]);
        out = out
            .number(5, self.max_tokens)
            .message(6, Message::default().message(8, gemma4))
            .text(7, &self.template)
            .message(8, channel);
        if !self.pad.is_empty() {
            out = out.message(13, token(&self.pad));
        }
        out.0
    }
}

/// The bytes of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Message {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u64, value: u64) -> Message {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Message {
        let mut out = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        out.0.extend(bytes);
        out
    }

    fn message(self, field: u64, message: Message) -> Message {
        self.bytes(field, &message.0)
    }

    fn text(self, field: u64, text: &str) -> Message {
        if text.is_empty() { self } else { self.bytes(field, text.as_bytes()) }
    }
}
