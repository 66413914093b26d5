// Light, dark, or as the system has it. Runs before the first paint. The theme has one set of dark colours, in a media rule: choosing
// sets that rule's condition.
"use strict";
(() => {
  const QUERY = "(prefers-color-scheme: dark)";
  const ORDER = ["auto", "light", "dark"];
  let choice = "auto";
  try {
    choice = ORDER.find((one) => one === localStorage.getItem("plumbline-theme")) ?? "auto";
  } catch {
    // A browser that keeps nothing: the system's choice.
  }
  let rules = null;
  const darkRules = () => [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter((rule) => rule instanceof CSSMediaRule && rule.conditionText === QUERY);
  const apply = () => {
    rules ??= darkRules();
    for (const rule of rules) rule.media.mediaText = { auto: QUERY, light: "not all", dark: "all" }[choice];
    document.documentElement.style.colorScheme = { auto: "light dark", light: "light", dark: "dark" }[choice];
    document.documentElement.dataset.theme = choice;
  };
  document.addEventListener("next-theme", () => {
    choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
    try {
      localStorage.setItem("plumbline-theme", choice);
    } catch {
      // As above: it holds until the page is left.
    }
    apply();
  });
  apply();
})();
