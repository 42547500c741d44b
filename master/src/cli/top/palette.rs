//! What things look like. Whatever a colour says is also said in words; without colours there is bold, dim and reversed.

use ratatui::style::{Color, Modifier, Style};

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// A heading.
    Title,
    /// Works.
    Good,
    /// On its way, or held back.
    Notable,
    /// Does not work.
    Bad,
    /// In the background, or no longer true.
    Faint,
    /// A little picture.
    Bars,
}

/// With or without colours.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    /// Colours may be used.
    pub has_colours: bool,
}

impl Palette {
    /// No colours when `NO_COLOR` is set to something (<https://no-color.org>).
    pub fn of_environment() -> Palette {
        Palette { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// The style of something.
    pub fn style(self, tone: Tone) -> Style {
        let style = match tone {
            // Also over what is faint.
            Tone::Title | Tone::Bad => {
                Style::new().remove_modifier(Modifier::DIM).add_modifier(Modifier::BOLD)
            }
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        match tone {
            Tone::Good if self.has_colours => style.fg(Color::Green),
            Tone::Notable if self.has_colours => style.fg(Color::Yellow),
            Tone::Bad if self.has_colours => style.fg(Color::Red),
            Tone::Bars if self.has_colours => style.fg(Color::Cyan),
            _ => style,
        }
    }

    /// The line that is selected: of one colour.
    pub fn selected(self) -> Style {
        Style::new().fg(Color::Reset).add_modifier(Modifier::REVERSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_there_are_none() {
        let tones = [Tone::Plain, Tone::Title, Tone::Good, Tone::Notable, Tone::Bad, Tone::Faint, Tone::Bars];
        let plain = Palette { has_colours: false };
        assert!(tones.iter().all(|tone| (plain.style(*tone).fg, plain.style(*tone).bg) == (None, None)));
        let coloured = Palette { has_colours: true };
        assert_eq!(coloured.style(Tone::Bad).fg, Some(Color::Red));
    }
}
