// What the page asks of the server. An answer that is an error is thrown with its sentence.
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is rddm-fast serve still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  throw new Error(told.error);
}

const post = (path, settings, body) =>
  ask(`${path}?${new URLSearchParams(settings)}`, { method: "POST", body });

export const offered = async () => (await ask("models")).json();

// The picture in another format, `to`, with its longer side at most `side` pixels if that is given.
export async function convert(picture, name, to, side) {
  const answer = await post("convert", { name, to, ...(side && { side }) }, picture);
  return answer.blob();
}

// A mask travels behind the picture, in the same body.
function sent(picture, mask, settings) {
  return mask ? [{ ...settings, mask: mask.size }, new Blob([picture, mask])] : [settings, picture];
}

export async function restore(choice, picture, mask, more) {
  const [settings, body] = sent(picture, mask, { ...choice.settings, ...more });
  const answer = await post(choice.path, settings, body);
  return { picture: await answer.blob(), seconds: Number(answer.headers.get("X-Seconds")) };
}

export async function film(choice, picture, mask) {
  const [settings, body] = sent(picture, mask, choice.settings);
  return (await (await post("film", settings, body)).json()).frames;
}

export async function progress(job) {
  const answer = await fetch(`progress?job=${job}`);
  return answer.ok ? answer.json() : null;
}

// keepalive: also while the page is being closed.
export const cancel = (job) => fetch(`job?job=${job}`, { method: "DELETE", keepalive: true }).catch(() => {});
