//! Packets by hand; nothing here is the daemon's.

/// A packet with these contents, its length in front.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(variable(body.len()));
    bytes.extend(body);
    bytes
}

/// A variable byte integer.
pub fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number % 128) as u8;
        number /= 128;
        bytes.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return bytes;
        }
    }
}

/// Bytes with their length as 16 bits in front.
pub fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a short field");
    [&length.to_be_bytes(), bytes].concat()
}

/// Takes a whole packet off the front: its first byte and its body.
pub fn split(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut length = 0;
    for at in 1..5 {
        let byte = *buffer.get(at)?;
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let body = buffer.get(at + 1..at + 1 + length)?.to_vec();
            let first = buffer[0];
            buffer.drain(..at + 1 + length);
            return Some((first, body));
        }
    }
    panic!("a length of more than four bytes: {:?}", &buffer[..5]);
}

/// Reads the fields of a packet; what is missing is the daemon's fault.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(length).expect("the packet has it");
        self.0 = rest;
        taken
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn text(&mut self) -> &'a str {
        let length = self.number();
        std::str::from_utf8(self.take(length.into())).expect("text is UTF-8")
    }

    pub fn variable(&mut self) -> usize {
        let mut number = 0;
        for place in 0..4 {
            let byte = self.byte();
            number |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                return number;
            }
        }
        panic!("a number of more than four bytes");
    }

    /// Properties of MQTT 5: identifiers, with the value of those that are two bytes.
    pub fn properties(&mut self) -> Vec<(u8, u16)> {
        let length = self.variable();
        let mut fields = Fields(self.take(length));
        let mut found = Vec::new();
        while !fields.0.is_empty() {
            let id = fields.byte();
            let mut value = 0;
            match id {
                1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => drop(fields.byte()),
                19 | 33 | 34 | 35 => value = fields.number(),
                2 | 17 | 24 | 39 => drop(fields.take(4)),
                11 => assert_ne!(fields.variable(), 0, "a subscription identifier"),
                38 => drop((fields.text(), fields.text())),
                9 | 22 => {
                    let length = fields.number();
                    fields.take(length.into());
                }
                3 | 8 | 18 | 21 | 26 | 28 | 31 => drop(fields.text()),
                _ => panic!("property {id}"),
            }
            found.push((id, value));
        }
        found
    }
}
