// The address of this page contains a token, which reports must not contain. So that reports can still link to the
// server, this browser remembers the tokens of pages that it has shown, and the address without a token looks them up.

const KEPT = "groundhog review";
const MOST = 20;
const TOKEN = /^[\w-]{22,64}$/;

// Remembers the token of the current page; the newest comes first.
export function remember() {
  const token = location.pathname.split("/")[1];
  try {
    localStorage.setItem(KEPT, JSON.stringify([token, ...remembered().filter((each) => each !== token)].slice(0, MOST)));
  } catch {
    // Storage is disabled in this browser.
  }
}

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    return Array.isArray(kept) ? kept.filter((each) => TOKEN.test(each)) : [];
  } catch {
    return [];
  }
}

// Opens the page whose token the server accepts.
async function enter() {
  for (const token of remembered()) {
    const response = await fetch(`/${token}/progress`).catch(() => null);
    if (response?.ok) return location.replace(`/${token}/${location.hash}`);
  }
}

if (document.documentElement.dataset.entrance !== undefined) enter();
