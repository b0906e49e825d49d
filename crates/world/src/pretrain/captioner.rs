pub const STEPS: u64 = 6000;
