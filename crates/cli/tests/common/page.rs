//! Pages of HTML, and what a browser makes of them.

use super::Folder;
use std::{
    env, fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The page loads nothing: images are in it, links stay on it.
#[track_caller]
pub fn assert_alone(page: &str) {
    for outside in ["http:", "https:", "url(", "@import", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("src=").count(), page.matches("src=\"data:image/").count());
    assert_eq!(page.matches("href=").count(), page.matches("href=\"#").count());
}

/// Opens a page in a headless browser in a frame of this size, runs a script on its root element `root`, which puts what it saw
/// into the list `said`, and returns that list. Then takes an image of it, which must show something. `None`, with a message,
/// where there is no browser. COMAT_KEEP_SCREENSHOTS=DIR keeps page and images under the name.
pub fn look(folder: &Folder, name: &str, page: &str, (width, height): (usize, usize), script: &str) -> Option<String> {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium, google-chrome or chrome is installed");
        return None;
    };
    // browsers refuse to make narrow windows, so the page stands in a frame of the width asked for
    let frame = format!(
        "<!doctype html><body style=\"margin:0\"><iframe id=\"f\" style=\"border:0;width:{width}px;height:{height}px\" srcdoc=\"{}\"></iframe>\
         <script>f.onload = () => {{ const root = f.contentDocument.documentElement;\n{script}\ndocument.title = said.join(', '); }}</script>",
        page.replace('&', "&amp;").replace('"', "&quot;")
    );
    folder.write("frame.html", frame);
    let dom = browse(&browser, folder, &["--dump-dom", "--virtual-time-budget=2000", "frame.html"]);
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or(&dom).to_owned();
    let window = format!("--window-size={},{height}", width.max(500));
    browse(&browser, folder, &[&window, "--screenshot=shot.png", "frame.html"]);
    let shades = shades(&folder.path("shot.png"), width);
    assert!(shades > 20, "{shades} shades in the screenshot of {width}x{height}");
    if let Some(keep) = env::var_os("COMAT_KEEP_SCREENSHOTS").map(PathBuf::from) {
        fs::write(keep.join(format!("{name}.html")), page).unwrap();
        fs::copy(folder.path("shot.png"), keep.join(format!("{name}-{width}.png"))).unwrap();
    }
    Some(title)
}

fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file())
}

/// Runs the browser on files of the folder, with a profile of its own and without its own network traffic.
fn browse(browser: &Path, folder: &Folder, words: &[&str]) -> String {
    let (page, flags) = words.split_last().unwrap();
    let done = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", folder.path("browser").display()))
        .args(flags)
        .arg(format!("file://{}", folder.path(page).display()))
        .current_dir(folder.path("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// How many different colours the left part of an image has.
fn shades(path: &Path, width: usize) -> usize {
    let mut reader = png::Decoder::new(BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    let bytes = frame.color_type.samples();
    let row = frame.width as usize * bytes;
    let left = pixels.chunks_exact(row).flat_map(|row| row[..width * bytes].chunks_exact(bytes));
    left.collect::<std::collections::BTreeSet<_>>().len()
}

/// Every element that is opened is closed, in order.
#[track_caller]
pub fn assert_balanced(page: &str) {
    const VOID: &[&str] = &["meta", "img", "br", "!DOCTYPE"];
    let (head, rest) = page.split_once("<style>").unwrap();
    let (body, script) = rest.split_once("</style>").unwrap().1.split_once("<script>").unwrap();
    let after = script.split_once("</script>").unwrap().1;
    let mut open: Vec<String> = vec![];
    for tag in [head, body, after].iter().flat_map(|part| part.split('<').skip(1)) {
        let (inside, _) = tag.split_once('>').unwrap_or_else(|| panic!("`<{tag}` does not end"));
        let name: String =
            inside.chars().take_while(|c| !c.is_whitespace() && (*c != '/' || inside.starts_with('/'))).collect();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
            None if inside.ends_with('/') || VOID.contains(&name.as_str()) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}
