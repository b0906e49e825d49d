"use strict";
document.addEventListener("click", (event) => {
  const chosen = event.target.closest(".filters button");
  if (!chosen) return;
  const filters = chosen.closest(".filters");
  for (const button of chosen.parentElement.children) button.setAttribute("aria-pressed", button === chosen);
  const pressed = [...filters.querySelectorAll("[aria-pressed=true]")];
  const wanted = pressed.map((button) => button.dataset.tag).filter((tag) => tag !== "");
  for (const card of filters.nextElementSibling.children) {
    const tags = card.dataset.tags.split(" ");
    card.hidden = !wanted.every((tag) => tags.includes(tag));
  }
});
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const image = event.target.closest(".enlarge");
  if (!image || dialog.open) return;
  dialog.replaceChildren(image.closest(".card").cloneNode(true));
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());
