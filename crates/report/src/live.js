const state = document.createElement("p");
state.className = "live";
state.setAttribute("role", "status");
document.body.append(state);
const say = (text) => { state.textContent = text; };
const pressed = () => [...document.querySelectorAll(".filters button")].map((b) => b.getAttribute("aria-pressed") === "true");
const opened = () => [...document.querySelectorAll("details")].map((details) => details.open);
async function renew(version) {
  const answer = await fetch("./");
  if (!answer.ok) throw new Error(await answer.text());
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [open, chosen, x, y] = [opened(), pressed(), scrollX, scrollY];
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.title = page.title;
  document.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? details.open; });
  document.querySelectorAll(".filters button").forEach((button, i) => { if (chosen[i]) button.click(); });
  scrollTo(x, y);
  shown = version;
  say(`renewed at ${new Date().toLocaleTimeString()}`);
}
async function look() {
  try {
    const version = await (await fetch("version")).text();
    if (version !== shown && !document.hidden) await renew(version);
  } catch (error) {
    say(error instanceof TypeError ? "comat report has ended; this is what it showed last" : String(error.message));
  }
  setTimeout(look, 2000);
}
setTimeout(look, 2000);
