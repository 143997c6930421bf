// Forms that write to the server: sent once at a time, and a label that may be misspelled only where it is meant.

/** Calls `act` when a form is sent, unless it is at it; the second click of a double one, and a key held down, send nothing. */
export function sending(form, act) {
  let busy = false;
  form.addEventListener("click", (event) => event.detail > 1 && event.target.type === "submit" && event.preventDefault());
  form.addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    await act().finally(() => (busy = false));
  });
}

/**
 * Sends labels by `send(meant)`. Those that were refused since they are near to others, and are sent again, are meant: what programs
 * are told to send, a person says by doing so `again`.
 */
export function meaning(again) {
  let refused = null;
  return async (labels, send) => {
    const given = labels.join("\n");
    try {
      return await send(refused === given ? labels : []);
    } catch (error) {
      if (error.remedy?.includes("new_labels")) {
        refused = given;
        error.remedy = `${error.remedy.split(" If ")[0]} If it is new, ${again}.`;
      }
      throw error;
    }
  };
}
