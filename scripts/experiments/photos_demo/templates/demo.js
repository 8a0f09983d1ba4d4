"use strict";
// A chosen word shows where it is on the large photo; chosen again, it lets go.
document.querySelectorAll("article").forEach((article) => {
  const shown = article.querySelector(".shown");
  const photo = shown.src;
  const buttons = [...article.querySelectorAll("button")];
  const choose = (chosen) => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", button === chosen));
    shown.src = chosen ? chosen.querySelector("img").src : photo;
  };
  buttons.forEach((button) => button.addEventListener("click", () => {
    choose(button.getAttribute("aria-pressed") === "true" ? null : button);
  }));
});
