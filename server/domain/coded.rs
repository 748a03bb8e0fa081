//! Enums that are kept as small integers and shown by name.

/// Declares an enum whose values have a number, which the database keeps and which equals the wire's, and a name.
macro_rules! coded {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$value_doc:meta])* $value:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(into = "i16", try_from = "i16")]
        pub enum $name {
            $($(#[$value_doc])* $value = $code,)+
        }

        impl $name {
            /// All values, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The number that the database keeps; the wire's enum has the same.
            #[must_use]
            pub const fn code(self) -> i16 {
                self as i16
            }

            /// The value with a number.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$value),)+
                    _ => None,
                }
            }

            /// The name, as the wire's enum has it without its prefix.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }
        }

        impl From<$name> for i16 {
            fn from(value: $name) -> Self {
                value.code()
            }
        }

        impl TryFrom<i16> for $name {
            type Error = String;

            fn try_from(code: i16) -> Result<Self, String> {
                Self::from_code(code).ok_or_else(|| format!("{code} is no {}", stringify!($name)))
            }
        }
    };
}

pub(crate) use coded;
