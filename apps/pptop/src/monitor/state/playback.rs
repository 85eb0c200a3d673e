//! A recorded run that is played.

/// The speeds to choose from.
const SPEEDS: [f64; 13] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];

/// How a recorded run is played.
#[derive(Debug, Clone, PartialEq)]
pub struct Playback {
    /// Times as fast as the run was.
    pub speed: f64,
    /// Whether the clock stands.
    pub is_paused: bool,
    /// Whether it begins again at its end.
    pub is_loop: bool,
    /// The clock, in seconds since the run began.
    pub seconds: f64,
    /// How long the run took, as far as that is known.
    pub whole_seconds: f64,
    /// Whether everything was played.
    pub is_at_end: bool,
}

impl Playback {
    /// A replay from the beginning at this speed.
    pub fn new(speed: f64, is_loop: bool) -> Self {
        Self {
            speed,
            is_paused: false,
            is_loop,
            seconds: 0.0,
            whole_seconds: 0.0,
            is_at_end: false,
        }
    }

    /// The next speed that is higher, or lower.
    pub(crate) fn change_speed(&mut self, by: i8) {
        let next = if by > 0 {
            SPEEDS.into_iter().find(|speed| *speed > self.speed)
        } else {
            SPEEDS.into_iter().rev().find(|speed| *speed < self.speed)
        };
        self.speed = next.unwrap_or(self.speed);
    }
}
