// The description of the API as Swagger UI shows it. Nothing is asked of other sites: no validator.
window.SwaggerUIBundle({
  url: new URL("api/v1/openapi.json", document.baseURI).href,
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
});
