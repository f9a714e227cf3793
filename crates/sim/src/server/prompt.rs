//! Chats as one text, so that equal beginnings of chats are equal beginnings of texts.

use std::fmt::Write as _;

use serde_json::Value;

use super::{error::ApiError, tokens::token};

/// A chat on its way to a text, in the manner of ChatML.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    text: String,
    last_user: String,
    n_media: usize,
}

impl Chat {
    /// Tools stand before everything else, as in chat templates.
    pub(crate) fn tools(&mut self, tools: Option<&Value>) {
        if let Some(tools) =
            tools.filter(|tools| tools.as_array().is_some_and(|all| !all.is_empty()))
        {
            self.message("system", &format!("tools: {tools}"));
        }
    }

    pub(crate) fn message(&mut self, role: &str, content: &str) {
        self.text.push_str("<|im_start|>");
        self.text.push_str(role);
        self.text.push('\n');
        self.text.push_str(content);
        self.text.push_str("<|im_end|>\n");
        if role == "user" {
            content.clone_into(&mut self.last_user);
        }
    }

    /// A message as the chat API has it.
    pub(crate) fn openai(&mut self, message: &Value) -> Result<(), ApiError> {
        let Some(role) = message.get("role").and_then(Value::as_str) else {
            return Err(ApiError::bad_request("each message must be an object with a `role`")
                .about("messages"));
        };
        let mut content = self.content(message.get("content"))?;
        for key in ["tool_calls", "function_call"] {
            if let Some(calls) = message.get(key).filter(|calls| !calls.is_null()) {
                content.push_str(&calls.to_string());
            }
        }
        self.message(role, &content);
        Ok(())
    }

    /// Content of any API: a text, or parts of which texts count and media leave a stub.
    pub(crate) fn content(&mut self, content: Option<&Value>) -> Result<String, ApiError> {
        match content {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Array(parts)) => {
                let mut text = String::new();
                for part in parts {
                    self.part(part, &mut text)?;
                }
                Ok(text)
            }
            Some(_) => {
                Err(ApiError::bad_request("`content` must be a string or an array of parts")
                    .about("messages"))
            }
        }
    }

    fn part(&mut self, part: &Value, text: &mut String) -> Result<(), ApiError> {
        let Some(kind) = part.get("type").and_then(Value::as_str) else {
            return Err(ApiError::bad_request("each content part must be an object with a `type`")
                .about("messages"));
        };
        match kind {
            "text" | "input_text" | "output_text" | "refusal" | "thinking" => {
                let key = if part.get(kind).is_some() { kind } else { "text" };
                text.push_str(part.get(key).and_then(Value::as_str).unwrap_or_default());
            }
            "tool_result" => text.push_str(&self.content(part.get("content"))?),
            "image_url" | "input_image" | "image" => self.stub("img", part, text),
            "input_audio" | "audio_url" => self.stub("audio", part, text),
            "video_url" => self.stub("video", part, text),
            _ => text.push_str(&part.to_string()),
        }
        Ok(())
    }

    fn stub(&mut self, kind: &str, part: &Value, text: &mut String) {
        let hash = token(&part.to_string());
        write!(text, "sim_{kind}_{}_{hash:08x} ", self.n_media).unwrap_or_default();
        self.n_media += 1;
    }

    /// The text, ready for the assistant's turn unless `bare`, and what the last user message says.
    pub(crate) fn finish(mut self, bare: bool) -> (String, String) {
        if !bare {
            self.text.push_str("<|im_start|>assistant\n");
        }
        (self.text, self.last_user)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::tokens::tokenize;

    fn render(messages: &Value) -> (String, String) {
        let mut chat = Chat::default();
        for message in messages.as_array().unwrap() {
            chat.openai(message).unwrap();
        }
        chat.finish(false)
    }

    #[test]
    fn a_longer_chat_begins_with_the_shorter_one_and_its_answer() {
        let first =
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]);
        let mut longer = first.clone();
        let answer = "model server cache ";
        longer.as_array_mut().unwrap().extend([
            json!({"role": "assistant", "content": answer}),
            json!({"role": "user", "content": [{"type": "text", "text": "More"}]}),
        ]);
        let (first, (longer, last_user)) = (render(&first).0, render(&longer));
        let turn = tokenize(&format!("{first}{answer}"));
        assert!(tokenize(&longer).starts_with(&turn));
        assert_eq!(last_user, "More");
    }

    #[test]
    fn media_leave_stubs_that_follow_from_their_content() {
        let image = |url: &str| {
            render(&json!([{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"},
            ]}]))
            .1
        };
        assert!(image("a").starts_with("sim_img_0_"));
        assert_eq!(image("a"), image("a"));
        assert_ne!(image("a"), image("b"));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [json!(5), json!({"content": "x"}), json!({"role": "user", "content": 5})] {
            assert!(Chat::default().openai(&message).is_err(), "{message}");
        }
    }
}
