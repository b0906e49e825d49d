//! Prints where the library lies, for whoever preloads it.

fn main() {
    println!("{}", stand_in::library().display());
}
