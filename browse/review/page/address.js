// The address of this page holds a token, which no report may hold. So that a report can link to the server all the
// same, this browser remembers the tokens of pages that it has shown; the server's bare address asks for them.

const KEPT = "groundhog review";
const MOST = 20;
const TOKEN = /^[\w-]{22,64}$/;

// Keeps the token of the page that is shown, newest first.
export function remember() {
  const token = location.pathname.split("/")[1];
  try {
    localStorage.setItem(KEPT, JSON.stringify([token, ...remembered().filter((each) => each !== token)].slice(0, MOST)));
  } catch {
    // This browser keeps nothing.
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

// Goes to the page whose token the server knows.
async function enter() {
  for (const token of remembered()) {
    const answer = await fetch(`/${token}/progress`).catch(() => null);
    if (answer?.ok) return location.replace(`/${token}/${location.hash}`);
  }
}

if (document.documentElement.dataset.entrance !== undefined) enter();
