"use strict";
for (const group of document.querySelectorAll(".filters")) {
  const cards = group.nextElementSibling.children;
  group.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    for (const button of group.children) button.setAttribute("aria-pressed", button === chosen);
    const tag = chosen.dataset.tag;
    for (const card of cards) card.hidden = tag !== "" && !card.dataset.tags.split(" ").includes(tag);
  });
}
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".enlarge");
  if (!picture || dialog.open) return;
  dialog.replaceChildren(picture.closest(".card").cloneNode(true));
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());
