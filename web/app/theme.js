// @ts-check
const STORED = 'chat.theme';

/** What was chosen: `auto`, `light` or `dark`. */
export function chosenTheme() {
  return localStorage.getItem(STORED) ?? 'auto';
}

/** @param {string} choice */
export function setTheme(choice) {
  if (choice === 'light' || choice === 'dark') localStorage.setItem(STORED, choice);
  else localStorage.removeItem(STORED);
  applyTheme();
}

/** Puts the choice on the page; without one the system's preference holds. */
export function applyTheme() {
  const choice = chosenTheme();
  if (choice === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}
